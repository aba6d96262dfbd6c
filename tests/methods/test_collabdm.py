"""CollabDM on small data: what it asks for, what it matches, what it knows of its noise, and every bad value."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conformance import COLLABDM
from hypothesis import given, settings
from hypothesis import strategies as st
from interrupts import interrupted
from torch import Tensor
from wiring import PerClient

from private_distdd.aggregation.mean import Mean
from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError, ModelError, NotPrivateWarning
from private_distdd.methods.collabdm import CollabDM
from private_distdd.networks.embedding import EmbeddingSpec
from private_distdd.privacy.accountants import epsilon
from private_distdd.privacy.events import SampledGaussian
from private_distdd.privacy.ledger import Budget, Ledger
from private_distdd.privacy.plan import Privacy
from private_distdd.questions.class_embeddings import ClassEmbeddings
from private_distdd.release.release import Release
from private_distdd.server.checkpoint import STATE
from private_distdd.server.record import RoundRecord
from private_distdd.simulation.splits import dirichlet_split
from private_distdd.site.client import Client
from private_distdd.storage import unpack
from private_distdd.synthetic.mosaic import expand
from private_distdd.wire.query import Query

MakeImages = Callable[..., ImageDataset]
INFO = DatasetInfo("tiny", 3, (1, 8, 8), (0.5,), (0.5,))
NOISY = Privacy(noise_multiplier=5.0)
QUIET = Privacy(noise_multiplier=1e-6)
Small = functools.partial(COLLABDM, smoothness=0.0, privacy=NOISY)


def members(make_images: MakeImages, count: int = 3, n: int = 9, **arguments: Any) -> list[Client]:
    return [Client(f"c{i}", make_images(n, seed=i), **arguments) for i in range(count)]


def open_fit(method: CollabDM, clients: Sequence[Client], **arguments: Any) -> Release:
    with pytest.warns(NotPrivateWarning, match="NOT private"):
        return method.fit(clients, **arguments)


def targets(method: CollabDM, clients: Sequence[Client], folder: Path) -> Tensor:
    """The aggregated messages of a run."""
    (method.fit if method.privacy else functools.partial(open_fit, method))(clients, checkpoint=folder)
    return unpack((folder / STATE).read_bytes())[1]["embedding"]


def means(method: CollabDM, images: Tensor, labels: Tensor) -> Tensor:
    """Mean embedding of each class by all networks, float [networks, classes, 2 m]: what S is to have."""
    networks = ClassEmbeddings(method.embedding(INFO), INFO, "cpu").networks
    with torch.no_grad():
        rows = [network(images) for network in networks]
    return torch.stack([torch.stack([own[labels == c].mean(dim=0) for c in range(3)]) for own in rows])


def noise(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(9)).clamp(-1, 1)


# The bill


def test_a_private_run_on_digits(digits: ImageDataset, tmp_path: Path) -> None:
    clients = dirichlet_split(digits, 4, alpha=1.0, seed=0)
    privacy = Privacy(target_epsilon=2.0, delta=1e-5)
    release = Small(ipc=2, matching_steps=12, privacy=privacy, seed=1).fit(clients)
    release.save(tmp_path / "out")
    Release.load(tmp_path / "out").verify()
    assert release.dataset.partition == 2
    assert release.dataset.images.shape == (20, 1, 8, 8)
    assert len(release.dataset) == 80
    assert release.card["progress"] == {
        "rounds_planned": 1,
        "rounds_done": 1,
        "matching_steps": 12,
        "stopped_early": False,
    }
    for client in clients:
        (event,) = client.ledger.events
        assert event == SampledGaussian(privacy.plan(1).noise_multiplier, 1.0, 1)
        assert 1.99 < release.epsilon[client.client_id] <= 2.0
        assert release.epsilon[client.client_id] == pytest.approx(epsilon([event], 1e-5, "gdp"), rel=1e-9)


def test_one_query_names_seeds_and_nothing_else(make_images: MakeImages) -> None:
    asked: list[Query] = []

    class Wire(PerClient):
        def ask(self, client_id: str, query: bytes) -> bytes:
            asked.append(Query.from_bytes(query))
            return super().ask(client_id, query)

    method = Small(seed=3)
    method.fit(Wire(members(make_images)), info=INFO)
    assert len(asked) == 3
    assert {query.question for query in asked} == {"class_embeddings"}
    assert {query.server_round for query in asked} == {0}
    assert all(
        EmbeddingSpec.from_json(query.arguments) == method.embedding(INFO) and not query.tensors for query in asked
    )
    assert len(set(method.embedding(INFO).seeds)) == 3
    assert Small(seed=4).embedding(INFO).seeds != method.embedding(INFO).seeds


def test_more_networks_and_steps_cost_no_more(make_images: MakeImages) -> None:
    bills = {
        tuple(Small(**arguments).fit(members(make_images, 1)).epsilon.values())
        for arguments in ({}, {"networks": 7}, {"frequencies": 16}, {"matching_steps": 9})
    }
    assert len(bills) == 1


# What is matched


@given(st.integers(0, 2**16), st.integers(3, 60), st.integers(1, 4), st.sampled_from([0.1, 1.0, math.inf]))
@settings(max_examples=8)
def test_targets_do_not_depend_on_the_split(
    tmp_path_factory: pytest.TempPathFactory, seed: int, n: int, count: int, alpha: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.arange(3), torch.randint(3, (n - 3,), generator=generator)])
    dataset = ImageDataset(torch.randn((n, 1, 8, 8), generator=generator), labels, INFO)
    method = Small(privacy=None, matching_steps=1)
    whole = targets(method, [Client("one", dataset)], tmp_path_factory.mktemp("x") / "whole")
    clients = dirichlet_split(dataset, count, alpha, seed=seed, min_size=0)
    parts = targets(method, clients, tmp_path_factory.mktemp("x") / "parts")
    assert torch.allclose(parts, whole, atol=1e-6)
    embedded, counts = ClassEmbeddings(method.embedding(INFO), INFO, "cpu").read(whole)
    assert torch.allclose(counts, torch.ones(3), atol=1e-5)
    assert torch.allclose(embedded / counts[:, None], means(method, dataset.images, labels), atol=1e-5)


def test_quiet_private_sums_say_the_same_as_open_ones(make_images: MakeImages, tmp_path: Path) -> None:
    """Sizes differ by client and class: sums and noisy counts give the mean over examples, not over clients."""
    parts = [make_images(3, 1), make_images(40, 2), make_images(7, 3, labels=[0] * 7), make_images(0)]
    images, labels = (torch.cat([getattr(p, name) for p in parts]) for name in ("images", "labels"))
    found = []
    for name, arguments in (
        ("open", {"privacy": None}),
        ("mean", {"privacy": QUIET}),
        ("sum", {"privacy": QUIET, "aggregator": "sum"}),
        ("open sum", {"privacy": None, "aggregator": "sum"}),
    ):
        method = Small(**arguments)
        clients = [Client(f"c{i}", part) for i, part in enumerate(parts)]
        embedded, counts = ClassEmbeddings(method.embedding(INFO), INFO, "cpu").read(
            targets(method, clients, tmp_path / name)
        )
        found.append(embedded / counts[:, None])
        assert torch.allclose(found[-1], means(method, images, labels), atol=1e-3)
    by_client = torch.stack([means(Small(), p.images, p.labels) for p in parts[:2]]).mean(dim=0)
    assert not torch.allclose(found[0], by_client, atol=1e-2)


def test_the_noise_of_the_targets_is_that_of_the_plan(make_images: MakeImages, tmp_path: Path) -> None:
    """The mean over n clients of one release each: sigma / sqrt(n) a coordinate, and not a tenth more or less."""
    method = Small(privacy=Privacy(noise_multiplier=3.0, divisor=2.0), frequencies=128, matching_steps=1)
    found = targets(method, [Client(f"c{i}", make_images(0)) for i in range(4)], tmp_path / "run").double()
    deviation = float(found.square().mean().sqrt())
    expected, spread = 3.0 / 2.0 / math.sqrt(4), 1 / math.sqrt(2 * found.numel())
    assert abs(deviation / expected - 1) < 6 * spread < 0.1


@pytest.mark.parametrize(("partition", "pool"), [(1, 1), (2, 2), (2, None)])
def test_matching_brings_s_nearer_to_the_classes(make_images: MakeImages, partition: int, pool: int | None) -> None:
    dataset = make_images(60)
    images = torch.tanh(dataset.images + dataset.labels[:, None, None, None].float() - 1)
    dataset = ImageDataset(images, dataset.labels, INFO)
    method = Small(ipc=2, privacy=None, partition=partition, pool=pool, matching_steps=150, bandwidth=1.0)
    release = open_fit(method, [Client("c0", dataset)])
    goal = means(method, dataset.images, dataset.labels)
    labels = torch.arange(3).repeat_interleave(2 * partition**2)

    def distance(stored: Tensor, to: Tensor = goal) -> float:
        return float((means(method, expand(stored, partition), labels) - to).square().sum())

    reached, start = distance(release.dataset.images), distance(noise((6, 1, 8, 8)))
    assert reached < 0.3 * start
    assert reached < 0.5 * distance(release.dataset.images, goal.roll(1, dims=1))  # each class its own mean
    assert torch.equal(release.dataset.expanded().images, expand(release.dataset.images, partition))


@pytest.mark.parametrize(("side", "parts"), [(8, 1), (28, 2), (27, 1)])
def test_the_default_partition_fits_the_images(side: int, parts: int) -> None:
    """Public, from the image shape alone; small or odd images stay whole, and S says what it is."""
    info = DatasetInfo("x", 3, (1, side, side), (0.5,), (0.5,))
    clients = [Client("c0", ImageDataset(torch.zeros(3, 1, side, side), torch.arange(3), info))]
    method = Small(partition=None, pool=None)
    release = method.fit(clients)
    release.verify()
    assert release.dataset.partition == parts
    assert method.embedding(info).pool == parts


def test_loss_falls_pixels_stay_and_the_record_says_so(make_images: MakeImages) -> None:
    records: list[RoundRecord] = []
    for steps in (1, 120):
        method = Small(privacy=QUIET, matching_steps=steps, matching_rate=0.5)
        images = method.fit(members(make_images), on_round_end=records.append).dataset.images
        assert float(images.abs().max()) <= 1  # between black and white: mean 0.5, deviation 0.5
    assert 0 < records[1].matching_loss < 0.7 * records[0].matching_loss


def test_every_network_is_used_once_before_any_again(make_images: MakeImages, monkeypatch: pytest.MonkeyPatch) -> None:
    from private_distdd.networks import embedding as embeddings

    used: list[int] = []
    call = embeddings.Embedding.__call__

    def spy(self: Any, images: Tensor) -> Tensor:
        if images.requires_grad:
            used.append(id(self))
        return call(self, images)

    monkeypatch.setattr(embeddings.Embedding, "__call__", spy)
    Small(networks=5, matching_steps=20).fit(members(make_images, 1))
    rounds = np.array(used).reshape(4, 5)
    assert all(len(set(own)) == 5 for own in rounds.tolist())
    assert any((own != rounds[0]).any() for own in rounds)  # in another order each time


def test_s_starts_from_public_noise_whatever_the_data(make_images: MakeImages) -> None:
    def start(seed: int, **arguments: Any) -> Tensor:
        method = Small(matching_rate=1e-9, seed=seed, partition=1)
        return method.fit(members(make_images, **arguments)).dataset.images

    first = start(0)
    assert torch.allclose(first, start(0, n=1), atol=1e-6)
    assert not torch.allclose(first, start(1), atol=1e-2)
    assert 0.5 < float(first.std()) < 0.9  # standard normal, cut at -1 and 1


@pytest.mark.parametrize("privacy", [NOISY, None])
def test_classes_that_nobody_holds(make_images: MakeImages, privacy: Privacy | None) -> None:
    clients = [Client(f"c{i}", make_images(6, i, labels=[0, 0, 0, 2, 2, 2])) for i in range(3)]
    for aggregator in ("mean", "sum", "median"):
        method = Small(privacy=privacy, aggregator=aggregator, matching_steps=20)
        release = method.fit(clients) if privacy else open_fit(method, clients)
        release.verify()
        assert bool(torch.isfinite(release.dataset.images).all())


def test_a_corrupt_minority_does_not_move_the_median(make_images: MakeImages, tmp_path: Path) -> None:
    dataset = make_images(60)
    wrong = ImageDataset(torch.ones_like(dataset.images), dataset.labels, INFO)
    clients = [Client(f"c{i}", wrong if i == 0 else dataset) for i in range(5)]
    goal, embeddings = (
        means(Small(), dataset.images, dataset.labels),
        ClassEmbeddings(Small().embedding(INFO), INFO, "cpu"),
    )
    off = {}
    for aggregator in ("mean", "median"):
        found = targets(Small(privacy=None, aggregator=aggregator), clients, tmp_path / aggregator)
        embedded, counts = embeddings.read(found)
        off[aggregator] = float((embedded / counts[:, None] - goal).abs().max())
    assert off["median"] < 1e-4
    assert off["mean"] > 0.01


def test_smoothness_keeps_noise_out_of_s(make_images: MakeImages) -> None:
    variation = []
    for smoothness in (0.0, 0.1, 10.0):
        release = Small(privacy=None, smoothness=smoothness, matching_steps=60, partition=1)
        images = open_fit(release, members(make_images)).dataset.images
        variation.append(float((images[..., 1:] - images[..., :-1]).abs().mean()))
    assert variation[0] > variation[1] > 3 * variation[2]


# Without privacy: images distilled at the clients


def test_distilled_starts_are_for_runs_without_privacy(make_images: MakeImages) -> None:
    with pytest.raises(ConfigurationError, match="local_steps = 3 with privacy"):
        Small(local_steps=3)
    for bad in (-1, 0.5, "3", None, True):
        with pytest.raises(ConfigurationError, match="local_steps"):
            Small(privacy=None, local_steps=bad)


def test_a_distilled_start_is_made_of_each_client_s_images(make_images: MakeImages, tmp_path: Path) -> None:
    parts = [make_images(12, 1), make_images(0), make_images(6, 2, labels=[1] * 6)]
    clients = [Client(f"c{i}", part) for i, part in enumerate(parts)]
    method = Small(ipc=4, privacy=None, local_steps=1, matching_rate=1e-9)
    release = open_fit(method, clients, checkpoint=tmp_path / "run")
    release.verify()
    assert [len(client.ledger.events) for client in clients] == [3, 3, 3]  # embeddings, class counts, images
    assert all(bill["messages_used"] == 3 for bill in release.card["clients"].values())
    images, labels = (torch.cat([getattr(part, name) for part in parts]) for name in ("images", "labels"))
    small = torch.nn.functional.avg_pool2d(images, 2).clamp(-1, 1)
    seen = set()
    for image, label in zip(release.dataset.images, release.dataset.labels.tolist(), strict=True):
        for part in image.reshape(1, 2, 4, 2, 4).permute(1, 3, 0, 2, 4).reshape(4, 1, 4, 4):
            distances = (small - part).flatten(1).norm(dim=1)
            nearest = int(distances.argmin())
            assert float(distances[nearest]) < 1e-4  # it has hardly moved
            assert int(labels[nearest]) == label
            seen.add(nearest)
    assert any(i < 12 and labels[i] == 1 for i in seen)  # both clients that hold class 1 have their share
    assert any(i >= 12 for i in seen)
    again = open_fit(method, [Client(f"c{i}", part) for i, part in enumerate(parts)])
    assert torch.equal(again.dataset.images, release.dataset.images)


def test_where_clients_hold_too_few_images_a_distilled_start_is_noise(make_images: MakeImages) -> None:
    few = make_images(5, 1, labels=[0, 0, 1, 1, 1])
    method = Small(ipc=3, privacy=None, local_steps=1, matching_rate=1e-9)
    started = open_fit(method, [Client("c0", few)]).dataset
    noise = open_fit(dataclasses.replace(method, local_steps=0), [Client("c0", few)]).dataset
    same = [torch.allclose(a, b, atol=1e-4) for a, b in zip(started.images, noise.images, strict=True)]
    assert same == [False, False, True, False, False, False, True, True, True]


# A second matching of the same messages


def test_matching_goes_on_from_the_messages_after_ctrl_c(
    make_images: MakeImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The release of the interrupted run is one, and the whole one can be had for nothing more."""
    ledgers = [Ledger(tmp_path / f"c{i}.jsonl", Budget(1.0, 1e-5)) for i in range(2)]
    clients = [Client(f"c{i}", make_images(9, i), ledger) for i, ledger in enumerate(ledgers)]
    method = Small(privacy=Privacy(target_epsilon=1.0))
    step, calls = torch.optim.Adam.step, []

    def stop(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return step(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", stop)
        early = interrupted(method.fit, clients, checkpoint=tmp_path / "run")
    assert early.card["progress"]["matching_steps"] == 2
    late = method.fit(clients, checkpoint=tmp_path / "run", resume=True)
    late.verify()
    assert late.card["progress"]["matching_steps"] == 4
    assert late.epsilon == early.epsilon
    assert [len(client.ledger.events) for client in clients] == [1, 1]
    assert late.card["run_id"] == early.card["run_id"]
    for ledger in ledgers:
        ledger.close()


def test_a_class_of_which_a_client_tells_noise_alone_is_left_out(
    make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    rule = Mean.__call__

    def noted(self: Mean, messages: Tensor, counts: Tensor | None = None) -> Tensor:
        seen.append(messages)
        return rule(self, messages, counts)

    monkeypatch.setattr(Mean, "__call__", noted)
    privacy = Privacy(noise_multiplier=1.0, divisor=10.0)  # of 300 examples 100 are of a class, whose count says 20
    clients = [Client("many", make_images(300)), Client("few", make_images(3)), Client("none", make_images(0))]
    for holders, expected in ((0.0, [True, True, True]), (7.0, [True, False, False])):
        Small(privacy=privacy, holders=holders, embedding_rounds=1).fit(clients)
        assert [bool((own != 0).all()) for own in seen[-1]] == expected
        assert [bool((own != 0).any()) for own in seen[-1]] == expected  # the whole of a class or nothing


# Bad input


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"privacy": Privacy(noise_multiplier=1.0, max_grad_norm=0.5)}, "max_grad_norm = 0.5 with CollabDM"),
        ({"privacy": Privacy(noise_multiplier=1.0, max_grad_norm=2.0)}, "max_grad_norm = 2.0 with CollabDM"),
        *(({"augment": value}, f"augment = {value!r}") for value in (0, 1, None, "yes")),
        *(({"bandwidth": value}, f"bandwidth = {value!r}") for value in (0, -0.1, math.nan, math.inf, "1")),
        *(({"smoothness": value}, f"smoothness = {value!r}") for value in (-0.1, math.nan, math.inf, "1", None, True)),
        ({"aggregator": "trimmed_mean(share=0.7)"}, "share = 0.7"),
        *(({"holders": value}, f"holders = {value!r}") for value in (-1, math.nan, math.inf, "3", None, True)),
        ({"holders": 3, "privacy": None}, "holders = 3 with privacy = None"),
        ({"holders": 3, "aggregator": "median"}, "and the rule median; allowed: privacy, and one of the rules"),
    ],
)
def test_bad_values_are_refused_at_once(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Small(**arguments)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"partition": 3}, "partition = 3 for images of 8 x 8"),
        ({"partition": 16}, "partition = 16"),
        ({"pool": 5}, "pool = 5 for images of 8 x 8"),
        ({"pool": None, "partition": 3}, "partition = 3"),
        ({"aggregator": "median"}, "median of 2 clients"),
        ({"model": "convnet", "model_args": {"depth": 3}, "pool": 2}, "depth = 3"),
    ],
)
def test_what_does_not_fit_the_images_is_found_before_a_client_is_asked(
    make_images: MakeImages, arguments: dict[str, Any], text: str
) -> None:
    clients = members(make_images, 2)
    with pytest.raises((ConfigurationError, ModelError), match=text):
        Small(**arguments).fit(clients)
    assert all(len(client.ledger) == 1 for client in clients)
