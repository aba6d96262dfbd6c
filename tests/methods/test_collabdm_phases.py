"""CollabDM's three kinds of rounds: what each asks, what they cost together, and what S becomes."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from phases import INFO, NOISY, QUIET, ROUNDS, MakeImages, Phases, Wire, kept, matched, members, run, start, told
from scipy import optimize, stats
from torch import Tensor

from private_distdd.errors import ConfigurationError, ModelError, QueryRefusedError
from private_distdd.limits import ComputeLimits
from private_distdd.methods.collabdm import CollabDM
from private_distdd.networks.embedding import EmbeddingSpec
from private_distdd.privacy.accountants import epsilon
from private_distdd.privacy.events import SampledGaussian
from private_distdd.privacy.ledger import Ledger
from private_distdd.privacy.plan import Privacy
from private_distdd.questions.class_embeddings import read
from private_distdd.release.release import Release
from private_distdd.site.client import Client

# The schedule and its price


def test_each_round_has_its_kind_and_everybody_is_asked_in_all() -> None:
    method = Phases(networks=12, embedding_rounds=3, teacher_rounds=2, refinement_rounds=4)
    assert [method.phase(t) for t in range(9)] == [
        *(("embedding", k) for k in range(3)),
        *(("teacher", k) for k in range(2)),
        *(("refinement", k) for k in range(4)),
    ]
    assert method.schedule(["a", "b"]) == [["a", "b"]] * 9
    plan = method.plan(["a", "b"])
    assert plan is not None
    assert plan.max_queries == method.rounds == method.settings()["rounds"] == 9


def gaussian_epsilon(sigma: float, delta: float) -> float:
    """Balle and Wang 2018, theorem 8, solved by bisection."""

    def excess(eps: float) -> float:
        a, b = 1 / (2 * sigma), eps * sigma
        return float(stats.norm.cdf(a - b) - math.exp(eps) * stats.norm.cdf(-a - b)) - delta

    return float(optimize.brentq(excess, 1e-9, 60))


def test_all_rounds_together_are_so_many_gaussians(make_images: MakeImages) -> None:
    """T releases of one sigma are one of sigma / sqrt(T): the closed form, and not that of a round more or less."""
    clients = members(make_images, 2)
    release = run(Phases(privacy=NOISY), clients)
    exact = gaussian_epsilon(5.0 / math.sqrt(6), 1e-5)
    for client in clients:
        events = list(client.ledger.events)
        assert events == [SampledGaussian(5.0, 1.0)] * 6
        assert epsilon(events, 1e-5, "gdp") == pytest.approx(exact, rel=1e-6)
        assert exact * (1 - 1e-9) <= release.epsilon[client.client_id] < 1.02 * exact
    for wrong in (5, 7):
        assert gaussian_epsilon(5.0 / math.sqrt(wrong), 1e-5) != pytest.approx(exact, rel=0.05)
    target = run(Phases(privacy=Privacy(target_epsilon=2.0)), members(make_images, 1))
    assert 1.98 < target.epsilon["c0"] <= 2.0
    once = run(
        Phases(privacy=Privacy(target_epsilon=2.0), embedding_rounds=1, teacher_rounds=0, refinement_rounds=0),
        members(make_images, 1),
    )
    ratio = target.card["plan"]["noise_multiplier"] / once.card["plan"]["noise_multiplier"]
    assert ratio == pytest.approx(math.sqrt(6), rel=1e-2)


def test_what_each_round_asks(make_images: MakeImages) -> None:
    method, wire = Phases(), Wire(members(make_images))
    run(method, wire)
    assert [query.server_round for _, query in wire.queries] == [t for t in range(6) for _ in range(3)]
    seeds: dict[str, list[int]] = {"embedding": [], "refinement": []}
    for t, name in enumerate(ROUNDS):
        query, phase = wire.asked(t), name.split()[0]
        if phase == "teacher":
            assert query.question == "class_gradients"
            assert query.arguments == {
                "model": {"name": "mlp", "arguments": {"width": 4, "depth": 1}},
                "granularity": "joint",
            }
            continue
        assert query.question == "class_embeddings"
        spec = EmbeddingSpec.from_json(query.arguments)
        assert len(spec.seeds) == 2
        seeds[phase] += spec.seeds
        assert bool(query.tensors) == (phase == "refinement")
        assert dataclasses.replace(spec, seeds=(1,)) == dataclasses.replace(method.embedding(INFO), seeds=(1,))
    first = np.random.default_rng([0, *b"networks"]).integers(2**62, size=4).tolist()
    assert sorted(seeds["embedding"]) == sorted(first)  # as one query would have named them
    assert sorted(seeds["refinement"]) == sorted(method.embedding(INFO, "refinement").seeds)
    assert len({*seeds["embedding"], *seeds["refinement"]}) == 8


@pytest.mark.parametrize("rounds", [1, 2, 4])
def test_the_networks_of_all_rounds_are_those_of_one(rounds: int) -> None:
    whole = Phases(embedding_rounds=1, refinement_rounds=1)
    method = Phases(embedding_rounds=rounds, refinement_rounds=rounds)
    for phase in ("embedding", "refinement"):
        parts = [method.asked_in(phase, k, INFO).seeds for k in range(rounds)]
        assert {len(part) for part in parts} == {4 // rounds}
        assert sorted(itertools.chain(*parts)) == sorted(whole.asked_in(phase, 0, INFO).seeds)


def means_by_seed(method: CollabDM, found: Tensor) -> dict[int, Tensor]:
    parts, length = {}, method.asked_in("embedding", 0, INFO).dimension
    for k, part in enumerate(torch.split(found, length, dim=1)):
        embedded, counts = read(part, method.networks // method.embedding_rounds)
        for seed, own in zip(method.asked_in("embedding", k, INFO).seeds, embedded, strict=True):
            parts[seed] = own / counts[:, None]
    return parts


@pytest.mark.parametrize("privacy", [QUIET, None], ids=["quiet", "open"])
def test_means_of_several_rounds_are_those_of_one(
    make_images: MakeImages, tmp_path: Path, privacy: Privacy | None
) -> None:
    found = []
    for rounds in (1, 2, 4):
        method = Phases(embedding_rounds=rounds, teacher_rounds=0, refinement_rounds=0, privacy=privacy)
        run(method, members(make_images), checkpoint=tmp_path / str(rounds))
        found.append(means_by_seed(method, kept(tmp_path / str(rounds))["embedding"]))
    assert len(found[0]) == 4
    one, other = list(found[0])[:2]
    assert not torch.allclose(found[0][one], found[0][other], atol=1e-2)
    for several in found[1:]:
        assert several.keys() == found[0].keys()
        assert all(torch.allclose(several[seed], found[0][seed], atol=1e-3) for seed in several)


# S


def test_one_round_alone_is_the_method_of_before_to_the_bit(make_images: MakeImages) -> None:
    method = Phases(embedding_rounds=1, teacher_rounds=0, refinement_rounds=0, seed=3)
    wire = Wire(members(make_images))
    release = run(method, wire)
    seeds = np.random.default_rng([3, *b"networks"]).integers(2**62, size=4).tolist()
    query = wire.asked(0)
    assert (query.question, query.tensors, query.arguments["seeds"]) == ("class_embeddings", {}, seeds)
    assert query.arguments == method.embedding(INFO).to_json()
    assert torch.equal(
        release.dataset.images, matched(method, start(method), [(method.embedding(INFO), wire.mean(0), None)])
    )
    assert release.teacher is None
    assert release.dataset.soft_labels is None
    assert release.card["progress"] == {
        "rounds_planned": 1,
        "rounds_done": 1,
        "matching_steps": 4,
        "stopped_early": False,
    }


def test_s_is_matched_twice_and_at_last_with_all_that_came(make_images: MakeImages, tmp_path: Path) -> None:
    """A first S from the first means; what is released goes on from it, with the means by trained networks too."""
    method, wire = Phases(seed=2), Wire(members(make_images))
    release = run(method, wire, checkpoint=tmp_path / "run")
    first = matched(method, start(method), told(method, wire, 0, 1))
    assert torch.equal(kept(tmp_path / "run")["first"], first)
    last = matched(method, first, told(method, wire, 0, 1, 4, 5))
    assert torch.equal(release.dataset.images, last)
    assert not torch.equal(matched(method, first, told(method, wire, 0, 1)), last)
    assert not torch.equal(matched(method, start(method), told(method, wire, 0, 1, 4, 5)), last)
    assert release.card["progress"]["matching_steps"] == 8
    assert not release.card["progress"]["stopped_early"]


# Without privacy


@pytest.mark.parametrize("aggregator", ["mean", "sum", "median", "trimmed_mean(share=0.4)"])
def test_all_rounds_without_privacy(make_images: MakeImages, aggregator: str) -> None:
    releases = [run(Phases(privacy=None, aggregator=aggregator), members(make_images)) for _ in range(2)]
    assert torch.equal(releases[0].dataset.images, releases[1].dataset.images)
    for release in releases:
        assert not release.private
        assert release.teacher is not None
        assert release.dataset.soft_labels is not None
        assert release.card["progress"]["matching_steps"] == 8


def test_a_distilled_start_goes_with_all_rounds(make_images: MakeImages) -> None:
    method = Phases(privacy=None, local_steps=2)
    release = run(method, members(make_images))
    assert {bill["messages_used"] for bill in release.card["clients"].values()} == {8}  # and counts, and images
    assert not release.card["progress"]["stopped_early"]
    assert not torch.equal(release.dataset.images, run(Phases(privacy=None), members(make_images)).dataset.images)


# Knobs


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        *(({"embedding_rounds": value}, f"embedding_rounds = {value!r}") for value in (0, -1, 1.0, True, "1", None)),
        *(({"refinement_rounds": value}, f"refinement_rounds = {value!r}") for value in (-1, 1.0, True, "1", None)),
        *(({"teacher_rounds": value}, f"teacher_rounds = {value!r}") for value in (-1, 1.0, True, "1", None)),
        *(({"network_epochs": value}, f"network_epochs = {value!r}") for value in (0, -1, 1.0, True, "1", None)),
        *(({"teacher_rate": value}, f"teacher_rate = {value!r}") for value in (0, -1, math.nan, 1e6, "1", None, True)),
        *(({"teacher_momentum": v}, f"teacher_momentum = {v!r}") for v in (-0.1, 1, math.nan, "1", None, True)),
        ({"embedding_rounds": 3}, "embedding_rounds = 3 with networks = 4"),
        ({"refinement_rounds": 8}, "refinement_rounds = 8 with networks = 4"),
    ],
)
def test_bad_values_are_refused_at_once(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Phases(**arguments)
    assert text in str(caught.value)
    assert caught.value.allowed
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"teacher": "no such"}, "no such"),
        ({"teacher_args": {"width": 0}}, "width = 0"),
        ({"teacher": "lenet", "teacher_args": {}}, "12 x 12"),
    ],
)
def test_a_teacher_that_clients_would_refuse_is_found_before_they_are_asked(
    make_images: MakeImages, arguments: dict[str, Any], text: str
) -> None:
    clients = members(make_images, 2)
    with pytest.raises((ConfigurationError, ModelError), match=text):
        Phases(**arguments).fit(clients)
    assert all(len(client.ledger) == 1 for client in clients)
    run(Phases(**arguments, teacher_rounds=0), clients)  # nobody asks it for anything


def test_wavelets_teach_small_images(make_images: MakeImages, tmp_path: Path) -> None:
    """The kind of teacher that is the default."""
    method = Phases(teacher="scatter_linear", teacher_args={}, teacher_rate=2.0)
    folder = run(method, members(make_images)).save(tmp_path / "out")
    loaded = Release.load(folder)
    loaded.verify()
    assert loaded.teacher is not None
    assert loaded.teacher.spec.name == "scatter_linear"
    assert loaded.dataset.soft_labels is not None


@pytest.mark.parametrize(
    ("knobs", "error"),
    [
        ({"embedding_rounds": 4, "refinement_rounds": 1}, QueryRefusedError),
        (
            {"networks": 4096, "model_args": {"width": 2, "depth": 4}, "embedding_rounds": 64, "refinement_rounds": 64},
            ConfigurationError,
        ),
    ],
    ids=["more work than clients do", "more tensors than a file's header holds"],
)
def test_what_clients_would_refuse_after_the_first_rounds_is_refused_before_them(
    make_images: MakeImages,
    knobs: dict[str, Any],
    error: type[Exception],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # One network is within it, and so is the teacher; four are not.
    monkeypatch.setattr(ComputeLimits.__init__, "__defaults__", (ComputeLimits().memory, 1e6))
    path = tmp_path / "ledger.jsonl"
    client = Client("c0", make_images(9), ledger=Ledger(path))
    before = path.read_bytes()
    with pytest.raises(error, match=r"operations an example|tensors, whose weights are sent"):
        Phases(**knobs).fit([client])
    assert path.read_bytes() == before
    Phases(embedding_rounds=4, refinement_rounds=4).fit([client])
    assert path.read_bytes() != before
