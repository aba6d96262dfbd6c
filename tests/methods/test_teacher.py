"""The teacher: its steps by hand, its divisor, what is released of it, and what it says of S."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from phases import INFO, NOISY, QUIET, MakeImages, Phases, Wire, members, opinion, run
from torch import Tensor

from private_distdd.data.dataset import ImageDataset
from private_distdd.methods.collabdm import CollabDM
from private_distdd.methods.teacher import Teacher, softened, trained_network
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.plan import Privacy
from private_distdd.release.release import Release
from private_distdd.site.client import Client
from private_distdd.synthetic.dataset import SyntheticDataset

SPEC = ModelSpec("mlp", {"width": 4, "depth": 1})
SIZES = (12, 3, 25)


def clients_of(make_images: MakeImages, **arguments: Any) -> list[Client]:
    """Of unequal sizes, with images of unequal contrast, so that some gradients are clipped and some are not."""
    clients = []
    for i, n in enumerate(SIZES):
        data = make_images(n, seed=i)
        contrast = torch.linspace(0.02, 2.0, n)[:, None, None, None]
        clients.append(Client(f"c{i}", ImageDataset(data.images * contrast, data.labels, INFO), **arguments))
    return clients


def examples_of(clients: Sequence[Client]) -> tuple[Tensor, Tensor]:
    return torch.cat([client._images for client in clients]), torch.cat([client._labels for client in clients])


def by_hand(
    method: CollabDM,
    images: Tensor,
    labels: Tensor,
    *,
    clip: float = 1.0,
    sign: float = 1.0,
    rate: float = 0.5,
    momentum: float = 0.9,
    divisor: float | None = None,
) -> dict[str, Tensor]:
    """SGD with momentum on the mean clipped gradient, one example and one parameter at a time."""
    network = SPEC.build(INFO.shape, 3, method.public_seed("teacher"))
    parameters = list(network.parameters())
    velocity = [torch.zeros_like(parameter, dtype=torch.float64) for parameter in parameters]
    norms = []
    for _ in range(method.teacher_rounds):
        total = [torch.zeros_like(parameter, dtype=torch.float64) for parameter in parameters]
        for image, label in zip(images, labels, strict=True):
            loss = F.cross_entropy(network(image[None]), label[None])
            gradients = torch.autograd.grad(loss, parameters)
            norms.append(math.sqrt(sum(float(g.double().square().sum()) for g in gradients)))
            for own, gradient in zip(total, gradients, strict=True):
                own += gradient.double() * min(1.0, clip / norms[-1])
        with torch.no_grad():
            for parameter, own, v in zip(parameters, total, velocity, strict=True):
                v.copy_(momentum * v + sign * own / (divisor or len(images)))
                parameter.sub_((rate * v).float())
    if clip == 1.0:  # or clipping could not be told from none
        assert min(norms) < 0.9
        assert max(norms) > 1.1
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def state(release: Release) -> dict[str, Tensor]:
    assert release.teacher is not None
    return dict(release.teacher.state)


# Its steps


@pytest.mark.parametrize("aggregator", ["mean", "sum"])
@pytest.mark.parametrize("divisor", [1.0, 64.0])
def test_without_noise_it_is_sgd_on_the_mean_clipped_gradient(
    make_images: MakeImages, aggregator: str, divisor: float
) -> None:
    """Over all examples, whatever they are shared out among, whatever the messages are divided by."""
    privacy = Privacy(noise_multiplier=1e-6, divisor=divisor)
    method = Phases(privacy=privacy, aggregator=aggregator, teacher_rounds=3, refinement_rounds=0)
    clients = clients_of(make_images)
    found, examples = state(run(method, clients)), examples_of(clients)
    start = dict(SPEC.build(INFO.shape, 3, method.public_seed("teacher")).state_dict())
    moved = distance(found, start)
    assert moved > 0.05
    assert distance(found, by_hand(method, *examples)) < 1e-3 * moved
    for wrong in (
        {"sign": -1.0},
        {"rate": 0.45},
        {"rate": 0.55},
        {"momentum": 0.0},
        {"momentum": 0.8},
        {"clip": math.inf},
        {"clip": 0.9},
        {"divisor": len(examples[0]) / len(SIZES)},
        {"divisor": len(examples[0]) + 4},
    ):
        assert distance(found, by_hand(method, *examples, **wrong)) > 0.01 * moved, wrong


@pytest.mark.parametrize("aggregator", ["mean", "sum"])
def test_without_privacy_it_is_sgd_on_the_mean_gradient(make_images: MakeImages, aggregator: str) -> None:
    """Nothing is clipped, and examples count alike, not clients."""
    method = Phases(privacy=None, aggregator=aggregator, teacher_rounds=3, refinement_rounds=0)
    clients = clients_of(make_images)
    found, examples = state(run(method, clients)), examples_of(clients)
    expected = by_hand(method, *examples, clip=math.inf)
    moved = distance(found, dict(SPEC.build(INFO.shape, 3, method.public_seed("teacher")).state_dict()))
    assert distance(found, expected) < 1e-4 * moved
    for wrong in ({}, {"clip": math.inf, "divisor": len(examples[0]) * len(SIZES)}):
        assert distance(found, by_hand(method, *examples, **wrong)) > 0.01 * moved


def from_messages(method: CollabDM, wire: Wire, *, rounds: Sequence[int] = (0, 1), divisor: float | None = None) -> Any:
    """The teacher as it follows from the messages alone: sums over what the embeddings' last column counts."""
    counted = [float(wire.mean(t)[:, -1].double().sum() / 0.2) for t in rounds]
    by = max(1.0, sum(counted) / len(counted)) if divisor is None else divisor
    network = SPEC.build(INFO.shape, 3, method.public_seed("teacher"))
    velocity = torch.zeros(sum(parameter.numel() for parameter in network.parameters()), dtype=torch.float64)
    weights = torch.nn.utils.parameters_to_vector(network.parameters()).detach().double()
    for k in range(method.teacher_rounds):
        velocity = 0.9 * velocity + wire.mean(method.embedding_rounds + k)[0].double() / by
        weights = weights - 0.5 * velocity
    torch.nn.utils.vector_to_parameters(weights.float(), network.parameters())
    return dict(network.state_dict())


def test_it_follows_from_the_noisy_messages_and_from_no_true_number(make_images: MakeImages) -> None:
    method, true = Phases(privacy=Privacy(noise_multiplier=2.0)), (60 + 63 + 66) / 3
    by_truth, by_one_round = [], []
    for _ in range(5):  # a noisy number may happen to be the true one: one run in thirty would not tell them apart
        wire = Wire(members(make_images, n=60))
        found = state(run(method, wire))
        assert distance(found, from_messages(method, wire)) < 1e-5
        by_truth.append(distance(found, from_messages(method, wire, divisor=true)))
        by_one_round.append(distance(found, from_messages(method, wire, rounds=[0])))
    assert max(by_truth) > 1e-4
    assert max(by_one_round) > 1e-4  # all rounds count them


def test_a_round_that_nobody_answered_counts_nobody(make_images: MakeImages) -> None:
    method = Phases(privacy=QUIET)
    wire = Wire(members(make_images), {1: ["c0", "c1", "c2"]})
    found = state(run(method, wire))
    assert distance(found, from_messages(method, wire, rounds=[0])) < 1e-4
    assert distance(found, from_messages(method, wire, rounds=[0], divisor=12 / 2)) > 1e-2


@pytest.mark.parametrize("divisor", [1.0, 4.0])
def test_noise_alone_divides_by_one_example(make_images: MakeImages, divisor: float) -> None:
    """A count may come out below 0: it would turn the steps round."""
    method = Phases(privacy=Privacy(noise_multiplier=50.0, divisor=divisor), embedding_rounds=1, refinement_rounds=0)
    for _ in range(20):
        wire = Wire([Client("c0", make_images(0))])
        found = state(run(method, wire))
        counted = float(wire.mean(0)[:, -1].double().sum() / 0.2)
        expected = from_messages(method, wire, divisor=max(1 / divisor, counted))
        assert distance(found, expected) < 1e-4 * max(1.0, float(expected["1.weight"].abs().max()))
        if counted < 0:
            break
    assert counted < 0  # of 20 coins, one fell so


def test_each_round_asks_at_the_weights_that_it_has(make_images: MakeImages) -> None:
    method, wire = Phases(teacher_rounds=3), Wire(members(make_images))
    found = state(run(method, wire))
    sent = [dict(wire.asked(t).tensors) for t in (2, 3, 4)]
    assert distance(sent[0], dict(SPEC.build(INFO.shape, 3, method.public_seed("teacher")).state_dict())) == 0
    for before, after in ((sent[0], sent[1]), (sent[1], sent[2]), (sent[2], found)):
        assert distance(before, after) > 1e-4
    other = Wire(members(make_images))
    run(Phases(teacher_rounds=3, seed=1), other)
    assert distance(dict(other.asked(2).tensors), sent[0]) > 1e-2  # seeds draw the first ones


# What is released


def test_it_is_released_for_the_same_price(make_images: MakeImages, tmp_path: Path) -> None:
    with_teacher = run(Phases(embedding_rounds=2, teacher_rounds=2, refinement_rounds=0), members(make_images))
    without = run(Phases(embedding_rounds=4, teacher_rounds=0, refinement_rounds=0), members(make_images))
    assert with_teacher.epsilon == without.epsilon
    assert without.teacher is None
    loaded = Release.load(with_teacher.save(tmp_path / "out"))
    loaded.verify()
    assert loaded.card["teacher"] == SPEC.to_json()
    assert distance(state(loaded), state(with_teacher)) == 0
    assert loaded.teacher is not None
    assert loaded.teacher.info == INFO


@pytest.mark.parametrize("partition", [1, 2])
@pytest.mark.parametrize("ipc", [1, 2])
def test_soft_labels_are_its_opinion_of_each_example(make_images: MakeImages, partition: int, ipc: int) -> None:
    method = Phases(privacy=QUIET, partition=partition, ipc=ipc, teacher_rate=5.0)
    release = run(method, clients_of(make_images))
    assert release.teacher is not None
    examples = release.dataset.expanded()
    expected = opinion(release.teacher, examples.images, examples.labels)
    soft = release.dataset.soft_labels
    assert soft is not None
    assert soft.shape == (3 * ipc * partition**2, 3)
    assert torch.allclose(soft, expected, atol=1e-6)
    assert examples.soft_labels is not None
    assert torch.equal(examples.soft_labels, soft)
    assert float((soft - soft.roll(1, dims=0)).abs().max()) > 1e-3  # in another order they would not be


def test_without_finite_weights_there_is_none_and_s_is_released(
    make_images: MakeImages, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = Teacher.step

    def diverge(self: Teacher, gradient: Tensor) -> None:
        real(self, gradient)
        with torch.no_grad():
            self._parameters[0].view(-1)[0] = math.nan

    monkeypatch.setattr(Teacher, "step", diverge)
    with caplog.at_level(logging.WARNING):
        release = run(Phases(), members(make_images))
    assert release.teacher is None
    assert release.dataset.soft_labels is None
    assert bool(torch.isfinite(release.dataset.images).all())
    assert release.card["progress"] == {
        "rounds_planned": 6,
        "rounds_done": 6,
        "matching_steps": 8,
        "stopped_early": False,
    }
    assert {bill["messages_used"] for bill in release.card["clients"].values()} == {6}
    assert "no teacher is released" in caplog.text
    assert "S has no soft labels" in caplog.text


def test_steps_as_large_as_may_be_stay_finite(make_images: MakeImages, tmp_path: Path) -> None:
    """So that its checkpoint can be gone on from."""
    method = Phases(teacher_rate=999_999.0, teacher_momentum=0.999, teacher_rounds=8)
    clients = members(make_images)
    release = run(method, clients, checkpoint=tmp_path / "run")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state(release).values())
    run(method, clients, checkpoint=tmp_path / "run", resume=True)
    teacher = Teacher(SPEC, INFO, 0, rate=999_999.0, momentum=0.999, device="cpu")
    for _ in range(1000):
        teacher.step(torch.full((teacher.dimension,), 1e18))  # 1,000 clients with the largest message that arrives
    assert all(bool(torch.isfinite(tensor).all()) for tensor in teacher.state.values())


# By itself


def taught(rate: float = 0.5, momentum: float = 0.9, steps: int = 3) -> Teacher:
    teacher = Teacher(SPEC, INFO, 3, rate=rate, momentum=momentum, device="cpu")
    for k in range(steps):
        teacher.step(torch.sin(torch.arange(teacher.dimension) * (k + 1.0)))
    return teacher


def test_keep_and_restore_are_inverse() -> None:
    whole, half = taught(steps=4), taught(steps=2)
    other = Teacher(SPEC, INFO, 9, rate=0.5, momentum=0.9, device="cpu")
    other.restore({name: tensor.clone() for name, tensor in half.keep().items()})
    assert other.moved
    for k in (2, 3):
        other.step(torch.sin(torch.arange(other.dimension) * (k + 1.0)))
    assert all(torch.equal(tensor, other.state[name]) for name, tensor in whole.state.items())
    assert not any(torch.equal(tensor, half.state[name]) for name, tensor in whole.state.items())


def test_its_state_is_a_copy() -> None:
    teacher = taught()
    before = teacher.state
    teacher.step(torch.ones(teacher.dimension))
    assert not torch.equal(before["1.weight"], teacher.state["1.weight"])


def test_whether_it_was_taught() -> None:
    assert not taught(steps=0).moved
    assert taught(steps=1).moved
    still = Teacher(SPEC, INFO, 3, rate=0.5, momentum=0.9, device="cpu")
    still.step(torch.zeros(still.dimension))  # of nobody's data
    assert not still.moved


def test_many_examples_are_labelled_as_one() -> None:
    """In parts, which change nothing."""
    teacher = taught()
    images = torch.randn((150, *INFO.shape), generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    dataset = SyntheticDataset(images, torch.arange(3).repeat_interleave(50), INFO)
    soft = softened(dataset, teacher.network).soft_labels
    assert soft is not None
    trained = trained_network(SPEC, teacher.network, INFO)
    assert trained is not None
    assert torch.allclose(soft, opinion(trained, images, dataset.labels), atol=1e-6)
    assert dataset.soft_labels is None  # S itself is not touched


def test_nobody_s_data_teach_nothing(make_images: MakeImages) -> None:
    release = run(Phases(privacy=None), [Client("c0", make_images(0))])
    assert release.teacher is None
    assert release.dataset.soft_labels is None
    noisy = run(Phases(privacy=NOISY), [Client("c0", make_images(0))])
    assert noisy.teacher is not None  # nobody can tell
