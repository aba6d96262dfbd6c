"""FedDGM: what it asks, what S follows from, the generator on the card, and what may be matched again for free."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conformance import FEDDGM, NOISY, Wire, charges, fit, members
from interrupts import interrupted
from torch import nn

from private_distdd.auditing.target import Target
from private_distdd.data.dataset import ImageDataset
from private_distdd.errors import CheckpointError, ConfigurationError
from private_distdd.evaluation import evaluate
from private_distdd.methods.feddgm import FedDGM
from private_distdd.methods.feddgm_course import FedDGMCourse
from private_distdd.networks.generators import Generator
from private_distdd.networks.training import train
from private_distdd.privacy.ledger import Ledger
from private_distdd.privacy.plan import Privacy
from private_distdd.release.release import Release
from private_distdd.simulation.splits import dirichlet_split
from private_distdd.site.client import Client
from private_distdd.synthetic.latents import Latents
from private_distdd.wire.message import Message

MakeImages = Callable[..., ImageDataset]


@pytest.mark.filterwarnings("ignore::private_distdd.errors.NotPrivateWarning")
def test_networks_learn_from_s(digits: ImageDataset) -> None:
    method = FedDGM(ipc=2, starts=4, surrogate_steps=8, student_steps=3, matching_steps=120, parametrisation="pixels")
    dataset = method.fit(dirichlet_split(digits, 3, alpha=1.0)).dataset
    noise = dataclasses.replace(method, matching_steps=1).fit(dirichlet_split(digits, 3, alpha=1.0)).dataset
    found, before = (
        evaluate(own, digits, model="mlp", model_args={"width": 32}, seeds=[0], learning_rate=0.1, epochs=60).mean
        for own in (dataset, noise)
    )
    assert found > 0.35
    assert before < 0.25


def test_events_are_starts_times_steps_of_each_query(make_images: MakeImages) -> None:
    method = FEDDGM(starts=3, surrogate_steps=4, rounds=2, privacy=NOISY)
    assert method.plan(["a"]) == NOISY.plan(2, 12)
    clients = members(make_images, 2)
    release = fit(method, clients)
    for client in clients:
        assert [charge.event.count for charge in charges(client.ledger.to_bytes())] == [12, 12]
    assert release.card["plan"]["events_per_query"] == 12


def test_whole_ways_cost_the_same_and_weights_cross_the_wire_only_where_they_must(make_images: MakeImages) -> None:
    sizes, claims = [], []
    for knobs in ({}, {"segment": 1}, {"surrogates": "continued"}):
        wire = Wire(members(make_images))
        claims.append(fit(FEDDGM(privacy=NOISY, **knobs), wire).epsilon)
        sizes.append(Message.from_bytes(wire.answers[0][2]).values.shape[1])
        sent = [bool(query.tensors) for name, query, _ in wire.answers if name == "c0"]
        assert sent == [False, bool(knobs.get("surrogates"))]
    assert claims[0] == claims[1] == claims[2]
    assert sizes[1] == 2 * sizes[0] == 2 * sizes[2]


def test_a_round_goes_on_where_the_mean_of_the_ways_ended(make_images: MakeImages) -> None:
    wire = Wire(members(make_images))
    method = FEDDGM(privacy=NOISY, surrogates="continued")
    fit(method, wire)
    ways = torch.stack([Message.from_bytes(data).values[0] for _, _, data in wire.answers[:3]]).mean(0)
    sent = wire.answers[3][1].tensors
    for k, (seed, way) in enumerate(zip(method.seeds(0), ways.chunk(2), strict=True)):
        start = method.spec.build((1, 8, 8), 3, seed).state_dict()
        flat = torch.cat([weights.flatten() for weights in start.values()]) - 0.1 * way
        found = torch.cat([sent[f"{k}/{name}"].flatten() for name in start])
        assert torch.allclose(found, flat, atol=1e-5)
        assert not torch.allclose(found, flat + 0.05 * way, atol=1e-3)


def test_s_starts_from_public_noise_whatever_the_data(make_images: MakeImages) -> None:
    starts = [
        fit(FEDDGM(privacy=NOISY, parametrisation=kind, matching_rate=1e-12, generator_rate=1e-12), [Client("a", data)])
        for kind in ("pixels", "convolutional")
        for data in (make_images(9), make_images(70, seed=5))
    ]
    images = [release.dataset.images for release in starts]
    assert torch.allclose(images[0], images[1], atol=1e-6)
    assert torch.allclose(images[2], images[3], atol=1e-6)
    assert float(images[0].std()) > 0.5


def test_s_trains_the_next_round_s_surrogates_and_is_matched_again_with_all_ways(make_images: MakeImages) -> None:
    """The second query's weights, made again: S after one round, and networks trained on it."""
    knobs = {"surrogates": "trained", "surrogate_epochs": 3}
    wire, method = Wire(members(make_images, allow_without_privacy=True)), FEDDGM(**knobs)
    both = fit(method, wire)
    first = fit(dataclasses.replace(method, rounds=1), Wire(members(make_images, allow_without_privacy=True)))
    sent = wire.answers[3][1].tensors
    for k in range(method.starts):
        network = method.spec.build((1, 8, 8), 3, method.public_seed("surrogate", 1, k))
        before = torch.cat([weights.flatten() for weights in network.state_dict().values()])
        order = torch.Generator().manual_seed(method.public_seed("training", 1, k))
        own = {"batch_size": 64, "learning_rate": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "generator": order}
        train(network, first.dataset.images, first.dataset.labels, epochs=3, **own)
        expected = torch.cat([weights.flatten() for weights in network.state_dict().values()])
        found = torch.cat([sent[f"{k}/{name}"].flatten() for name in network.state_dict()])
        assert torch.allclose(found, expected, atol=1e-6)
        assert not torch.allclose(found, before, atol=1e-4)
    assert both.card["progress"]["matching_steps"] == 2 * method.matching_steps
    assert not torch.allclose(both.dataset.images, first.dataset.images, atol=1e-3)


def test_a_stop_before_the_first_step_of_a_resumed_run_releases_no_noise(
    make_images: MakeImages, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint keeps what S trained, and not S: what was paid for is matched again."""
    method, run, clients = FEDDGM(privacy=NOISY, surrogates="trained"), folder / "run", federation(make_images, folder)
    whole = fit(method, clients)
    for at in (1, 2):  # the second round's query, when it is first made, and made by the resumed run
        with monkeypatch.context() as patch:
            patch.setattr(FedDGMCourse, "wanted", _stopping(FedDGMCourse.wanted))
            release = interrupted(fit, method, clients, checkpoint=run, resume=at > 1)
        assert release.card["progress"]["matching_steps"] == at * method.matching_steps
        assert not torch.allclose(release.dataset.images, _noise(method, whole), atol=1e-3)


def _stopping(wanted: Callable[..., Any]) -> Callable[..., Any]:
    def stopped(course: FedDGMCourse, t: int) -> Any:
        if t:
            raise KeyboardInterrupt
        return wanted(course, t)

    return stopped


def _noise(method: FedDGM, like: Release) -> torch.Tensor:
    """S before its first step."""
    info = like.dataset.info
    generator, rng = method.generator(info), method.public_rng("latents")
    return Latents.drawn(generator, info, len(like.dataset.labels), rng, "cpu").examples().detach()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ledgers").mkdir()
    return tmp_path


def federation(make_images: MakeImages, folder: Path) -> list[Client]:
    return [Client(n, make_images(9, i), Ledger(folder / "ledgers" / f"{n}.jsonl")) for i, n in enumerate("ab")]


def test_the_same_messages_are_matched_again_for_nothing(make_images: MakeImages, folder: Path) -> None:
    clients, run = federation(make_images, folder), folder / "run"
    first = fit(FEDDGM(privacy=NOISY), clients, checkpoint=run)
    other = {"parametrisation": "pixels", "ipc": 2, "matching_steps": 6, "distance": "l2", "student_steps": 1}
    other |= {"surrogate_epochs": 7}  # nobody is trained on S
    again = fit(FEDDGM(privacy=NOISY, **other), clients, checkpoint=run, resume=True)
    again.verify()
    assert again.epsilon == first.epsilon
    assert again.card["clients"]["a"]["charges"] == first.card["clients"]["a"]["charges"] == 2
    assert len(again.dataset) == 6
    back = fit(FEDDGM(privacy=NOISY), clients, checkpoint=run, resume=True)
    assert torch.equal(back.dataset.images, first.dataset.images)
    for changed in ({"starts": 3}, {"surrogate_steps": 3}, {"segment": 1}, {"match": "clients", "ipc": 2}):
        with pytest.raises(CheckpointError):
            FEDDGM(privacy=NOISY, **changed).fit(clients, checkpoint=run, resume=True)
    for client in clients:
        client.ledger.close()


def test_a_client_s_way_moves_its_own_share_of_s(make_images: MakeImages) -> None:
    """Three clients, ipc 3: of each class the first image follows the first client, and so on.

    In the first order the cosine does not see the student's rate, which all shares have in common.
    """

    def images(second: ImageDataset) -> torch.Tensor:
        clients = [Client("a", make_images(9)), Client("b", second), Client("c", make_images(9, 2))]
        method = FEDDGM(match="clients", ipc=3, rounds=1, parametrisation="pixels", smoothness=0.0, first_order=True)
        return fit(method, clients).dataset.images

    changed = (images(make_images(9, 1)) - images(make_images(9, 8))).abs().flatten(1).amax(1).reshape(3, 3)
    assert bool((changed[:, 1] > 0.05).all())
    assert float(changed[:, [0, 2]].max()) < 1e-3
    with pytest.raises(ConfigurationError, match="ipc = 2"):
        FEDDGM(match="clients", ipc=2).fit(members(make_images))


def small_generator() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 64), nn.Sigmoid(), nn.Unflatten(1, (1, 8, 8)))


@pytest.mark.parametrize("learned", [False, True])
def test_the_card_names_a_generator_and_what_it_has_seen(
    make_images: MakeImages, tmp_path: Path, learned: bool
) -> None:
    Generator(small_generator(), (5,), "faces", "cartoon faces").save(tmp_path / "faces.safetensors")
    generator = Generator.loaded(
        small_generator(), tmp_path / "faces.safetensors", latent_shape=(5,), name="faces", seen="cartoon faces",
        learned=learned,
    )  # fmt: skip
    weights = generator.weights
    release = fit(FEDDGM(privacy=NOISY, parametrisation=generator), members(make_images))
    assert generator.weights == weights  # a copy is learned
    folder = release.save(tmp_path / "release")
    loaded = Release.load(folder)
    loaded.verify()
    said = {"name": "faces", "seen": "cartoon faces", "weights": weights, "latent_shape": [5], "learned": learned}
    assert loaded.card["method"]["settings"]["parametrisation"] == said
    page = (folder / "card.html").read_text()
    assert "its weights have seen: cartoon faces" in page
    assert weights in page
    manifest = json.loads((folder / "manifest.json").read_text())
    assert "card.json" in json.dumps(manifest)
    other = dataclasses.replace(generator, network=small_generator())
    assert other.weights != weights


def test_by_default_the_card_says_that_the_generator_has_seen_nothing(make_images: MakeImages) -> None:
    said = fit(FEDDGM(privacy=NOISY, parametrisation=None), members(make_images)).card["method"]["settings"][
        "parametrisation"
    ]
    assert (said["name"], said["seen"], said["learned"]) == ("convolutional", "nothing", True)


@pytest.mark.parametrize(
    ("knobs", "text"),
    [
        ({"segment": 3}, "segment = 3"),
        ({"segment": 0}, "segment = 0"),
        ({"parametrisation": "stylegan"}, "parametrisation = 'stylegan'"),
        ({"match": "sum"}, "match = 'sum'"),
        ({"distance": "l1"}, "distance = 'l1'"),
        ({"surrogates": "old"}, "surrogates = 'old'"),
        ({"smoothness": -0.1}, "smoothness = -0.1"),
        ({"learning_rate": 0.0}, "learning_rate = 0.0"),
        ({"batch_size": 8, "privacy": NOISY}, "batch_size = 8 with privacy"),
    ],
)
def test_contradictions_are_refused(knobs: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        FEDDGM(**knobs)


def test_a_release_is_audited_by_its_steps(digits: ImageDataset, tmp_path: Path) -> None:
    method = FEDDGM(privacy=Privacy(noise_multiplier=1.0))
    target = Target.read(method.fit(dirichlet_split(digits, 2)).save(tmp_path / "release"))
    assert target.asks == target.question.question == "local_trainings"
    assert target.plan.schedule.count == 8
    assert target.plan.events_per_query == 1
