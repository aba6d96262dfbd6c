"""The question "class_embeddings" with weights that are sent: they change what is seen, and no bound."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError, ModelError, QueryRefusedError
from private_distdd.networks.embedding import EmbeddingSpec
from private_distdd.networks.micro_batch import micro_batches
from private_distdd.networks.register import FACTORIES
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.mechanism import LATTICE, lattice_sums
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.questions.arguments import states_of, weights_of
from private_distdd.questions.class_embeddings import EmbeddingSums
from private_distdd.site.client import Client
from private_distdd.wire.query import Query
from private_distdd.wire.run import Run

INFO = DatasetInfo("tiny", 3, (1, 8, 8), (0.5,), (0.5,))
SPEC = EmbeddingSpec(ModelSpec("mlp", {"width": 16, "depth": 1}), (11, 12), 2, 0.5, 8, True)
CONVOLVED = dataclasses.replace(SPEC, model=ModelSpec("convnet", {"width": 8, "depth": 1}), bandwidth=0.2)
MakeImages = Callable[..., ImageDataset]


def states(spec: EmbeddingSpec, *seeds: int) -> list[dict[str, Tensor]]:
    """Of networks under other seeds than the query's."""
    return [dict(spec.model.build(spec.seen(INFO), INFO.num_classes, seed).state_dict()) for seed in seeds]


def asked(spec: EmbeddingSpec, factor: float = 1.0) -> EmbeddingSums:
    tensors = {name: factor * tensor for name, tensor in weights_of(states(spec, 1, 2)).items()}
    return EmbeddingSums(spec.to_json(), tensors, INFO, "cpu")


FACTORS = (1.0, 0.0, -3.0, 1e-30, 1e15, 1e38, math.inf, math.nan)
QUESTIONS = {(spec.model.name, factor): asked(spec, factor) for spec in (SPEC, CONVOLVED) for factor in FACTORS}


def data(n: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((n, *INFO.shape), generator=generator), torch.randint(3, (n,), generator=generator)


def lattice(question: EmbeddingSums, images: Tensor, labels: Tensor) -> Tensor:
    """The pre-noise sum, as `Client._private` has it made."""
    batches = (
        (question.rows(batch, own), question.groups(own[:count])) for batch, own, count in micro_batches(images, labels)
    )
    return lattice_sums(batches, question.num_groups, question.dimension, 1.0)


questions = st.sampled_from(sorted(QUESTIONS, key=str)).map(QUESTIONS.__getitem__)


@given(questions, st.integers(0, 2**16), st.integers(0, 90), st.sampled_from([1.0, 1e-38, 1e15, 3e38, math.inf]))
@settings(max_examples=60)
def test_an_example_moves_one_class_s_sum_by_at_most_1(
    question: EmbeddingSums, seed: int, n: int, scale: float
) -> None:
    """Whatever was sent, and whoever rides along: in exact integers."""
    images, labels = data(n + 1, seed)
    images[0] *= scale
    label = int(labels[0])
    moved = lattice(question, images, labels) - lattice(question, images[1:], labels[1:])
    squares = [sum(k * k for k in row) for row in moved.tolist()]
    assert squares[label] <= LATTICE**2
    assert [square for c, square in enumerate(squares) if c != label] == [0, 0]
    if math.isfinite(scale):  # and the bound is used: a smaller one would be wrong
        assert squares[label] > (0.999 * LATTICE) ** 2


@given(questions, st.integers(0, 2**16), st.integers(1, 150), st.integers(1, 5))
@settings(max_examples=30)
def test_sums_do_not_depend_on_the_split(question: EmbeddingSums, seed: int, n: int, clients: int) -> None:
    images, labels = data(n, seed)
    owner = torch.from_numpy(np.random.default_rng(seed).integers(clients, size=n))
    parts = [lattice(question, images[owner == i], labels[owner == i]) for i in range(clients)]
    assert torch.equal(sum(parts, torch.zeros(1, dtype=torch.int64)), lattice(question, images, labels))
    whole, counts = question.plain(images, labels)
    plain = [question.plain(images[owner == i], labels[owner == i]) for i in range(clients)]
    total = sum((values.double() for values, _ in plain), torch.zeros(1).double())
    assert torch.allclose(total, whole.double(), atol=1e-6 * n)
    assert torch.equal(sum((c for _, c in plain), torch.zeros(3, dtype=torch.int64)), counts)


@given(questions, st.integers(0, 2**16), st.integers(1, 100))
@settings(max_examples=20)
def test_the_order_of_examples_changes_no_bit(question: EmbeddingSums, seed: int, n: int) -> None:
    images, labels = data(n, seed)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(n))
    assert torch.equal(lattice(question, images, labels), lattice(question, images[order], labels[order]))


# What the weights do


@pytest.mark.parametrize("spec", [SPEC, CONVOLVED], ids=["mlp", "convnet"])
def test_weights_decide_what_is_seen_and_seeds_the_rest(spec: EmbeddingSpec) -> None:
    images, labels = data(20, 0)
    by_seed = EmbeddingSums(spec.to_json(), {}, INFO, "cpu").rows(images, labels)
    sent = EmbeddingSums(spec.to_json(), weights_of(states(spec, *spec.seeds)), INFO, "cpu").rows(images, labels)
    assert torch.equal(sent, by_seed)  # the seeds' own weights
    crossed = EmbeddingSums(spec.to_json(), weights_of(states(spec, *spec.seeds[::-1])), INFO, "cpu")
    rows = crossed.rows(images, labels)
    assert not torch.allclose(rows[:, :16], by_seed[:, :16], atol=1e-2)  # frequencies are still the first seed's
    swapped = dataclasses.replace(spec, seeds=spec.seeds[::-1])
    others = EmbeddingSums(swapped.to_json(), weights_of(states(spec, *spec.seeds)), INFO, "cpu").rows(images, labels)
    assert not torch.allclose(rows, others, atol=1e-2)
    assert torch.equal(rows[:, -1], by_seed[:, -1])
    half = weights_of([states(spec, spec.seeds[0])[0], states(spec, 7)[0]])  # the second one alone is another
    rows = EmbeddingSums(spec.to_json(), half, INFO, "cpu").rows(images, labels)
    assert torch.equal(rows[:, :16], by_seed[:, :16])
    assert not torch.allclose(rows[:, 16:32], by_seed[:, 16:32], atol=1e-2)


def test_weights_and_networks_are_inverse() -> None:
    many = states(SPEC, *range(12))  # two digits, too
    tensors = weights_of(many)
    assert len(tensors) == 12 * len(many[0])
    assert torch.equal(tensors["11/1.weight"], many[11]["1.weight"])
    for sent in (tensors, dict(sorted(tensors.items()))):  # in the order in which bytes hold them, too
        back = states_of(sent, 12)
        assert back is not None
        for own, found in zip(many, back, strict=True):
            assert own.keys() == found.keys()
            assert all(torch.equal(own[name], found[name]) for name in own)
    assert states_of({}, 12) is None


def test_whether_places_are_alike_is_tried_without_them() -> None:
    """No weights of a server's choice may hide that rows depend on their place."""
    public = [asked(SPEC, factor).public().rows(*data(5, 0)) for factor in (1.0, 0.0, math.nan)]
    assert torch.equal(public[0], public[1])
    assert torch.equal(public[0], public[2])


def test_zeros_that_a_server_will_replace_hide_nothing_from_the_check_of_places(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def zeros(shape: tuple[int, ...], num_classes: int) -> nn.Module:
        first = nn.Linear(math.prod(shape), 5)
        nn.init.zeros_(first.weight)
        return nn.Sequential(nn.Flatten(), first, nn.Tanh(), nn.Linear(5, num_classes))

    monkeypatch.setitem(FACTORIES, "zeros", zeros)
    spec = dataclasses.replace(SPEC, model=ModelSpec("zeros", {}))
    rows = EmbeddingSums(spec.to_json(), {}, INFO, "cpu").public().rows(*data(5, 0))
    assert float((rows[0] - rows[1]).abs().max()) > 1e-3  # at its start all examples have one embedding


# Malformed ones


def edited(**changes: Tensor | None) -> dict[str, Any]:
    tensors: dict[str, Tensor | None] = {**weights_of(states(SPEC, 1, 2)), **changes}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


MALFORMED: dict[str, dict[str, Tensor]] = {
    "one network less": weights_of(states(SPEC, 1)),
    "one network more": weights_of(states(SPEC, 1, 2, 3)),
    "one tensor less": edited(**{"1/1.bias": None}),
    "one tensor more": edited(**{"1/2.bias": torch.ones(3)}),
    "another shape": edited(**{"0/1.weight": torch.ones(16, 64)}),
    "no network": edited(**{"1.weight": torch.ones(3)}),
    "no name": edited(**{"0/": torch.ones(3)}),
    "a network of another name": edited(**{"00/1.bias": torch.ones(16)}),
    "a negative network": edited(**{"-1/1.bias": torch.ones(16)}),
    "without networks": states(SPEC, 1)[0],
}


@pytest.mark.parametrize("tensors", MALFORMED.values(), ids=MALFORMED)
def test_malformed_weights_are_refused_for_nothing(make_images: MakeImages, tensors: dict[str, Tensor]) -> None:
    for plan in (PrivacyPlan(2.0, 0.5, 1.0, 4.0, 2, 1e-5), None):
        run = Run("run-1", INFO, plan)
        client = Client("clinic", make_images(6), allow_without_privacy=True)
        client.enroll(run)
        before = client.ledger.to_bytes()
        with pytest.raises((QueryRefusedError, ModelError, ConfigurationError)):
            client.answer(Query(run.run_id, 0, "class_embeddings", SPEC.to_json(), tensors, plan))
        assert client.ledger.to_bytes() == before
        sound = Query(run.run_id, 0, "class_embeddings", SPEC.to_json(), edited(), plan)
        assert client.answer(Query.from_bytes(sound.data)).values.shape == (3, SPEC.dimension)
        assert len(client.ledger.events) == 1
