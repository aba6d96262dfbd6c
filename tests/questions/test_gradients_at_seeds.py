"""The question "class_gradients_at_seeds": K lone queries side by side, in one event or in K, and the price of each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError, ModelError, QueryRefusedError
from private_distdd.limits import GIB, ComputeLimits
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.accountants import epsilon
from private_distdd.privacy.events import SampledGaussian
from private_distdd.privacy.mechanism import LATTICE
from private_distdd.privacy.plan import Privacy, PrivacyPlan
from private_distdd.questions.class_gradients import ClassGradients
from private_distdd.questions.class_gradients_at_seeds import NETWORK_EVENTS, GradientsAtSeeds
from private_distdd.questions.register import private_question
from private_distdd.site.client import Client
from private_distdd.wire.query import Query
from private_distdd.wire.run import Run

MakeImages = Callable[..., ImageDataset]
SPEC = ModelSpec("mlp", {"width": 16, "depth": 1})
SEEDS = (5, 0, 2**62)
NAME = "class_gradients_at_seeds"


def asked(seeds: Any = SEEDS, events: Any = "one", granularity: str = "class") -> dict[str, Any]:
    return {"model": SPEC.to_json(), "granularity": granularity, "seeds": seeds, "events": events}


def alone(seed: int, info: DatasetInfo, granularity: str = "class") -> ClassGradients:
    """The single query for one of the networks: its weights, as they were sent before there were seeds."""
    weights = SPEC.build(info.shape, info.num_classes, seed).state_dict()
    return ClassGradients({"model": SPEC.to_json(), "granularity": granularity}, weights, info, "cpu")


def side_by_side(values: Tensor) -> tuple[Tensor, ...]:
    return values.chunk(len(SEEDS), dim=-1)


@pytest.mark.parametrize("granularity", ["class", "joint"])
@pytest.mark.parametrize("events", NETWORK_EVENTS)
def test_its_rows_and_sums_are_those_of_single_queries(
    make_images: MakeImages, tiny_info: DatasetInfo, events: str, granularity: str
) -> None:
    data = make_images(64)
    question = private_question(NAME, asked(SEEDS, events, granularity), {}, tiny_info, "cpu")
    scale = {"one": 1 / math.sqrt(len(SEEDS)), "each": 1.0}[events]
    values, counts = question.plain(data.images, data.labels)
    rows = question.rows(data.images, data.labels)
    assert values.shape == (question.num_groups, question.dimension)
    for k, seed in enumerate(SEEDS):
        own = alone(seed, tiny_info, granularity)
        expected, number = own.plain(data.images, data.labels)
        assert torch.equal(side_by_side(values)[k], expected * scale)
        assert torch.equal(counts, number)
        assert torch.equal(side_by_side(rows)[k], own.rows(data.images, data.labels) * scale)
        assert torch.equal(question.groups(data.labels), own.groups(data.labels))


class _Noiseless:
    """Every example is taken, and the noise is zero."""

    def stream(self) -> _Noiseless:
        return self

    def rounded_normals(self, shape: tuple[int, ...], scale: float) -> Any:
        return torch.zeros(shape, dtype=torch.int64).numpy()

    def coins(self, count: int, rate: float) -> Any:
        return torch.ones(count, dtype=torch.bool).numpy()


def message(
    dataset: ImageDataset, plan: PrivacyPlan, arguments: Any, *, randomness: Any = None, **others: Any
) -> Tensor:
    run = Run("run-1", dataset.info, plan)
    client = Client("c", dataset, randomness=randomness)
    client.enroll(run)
    return client.answer(Query("run-1", 0, others.get("name", NAME), arguments, others.get("tensors", {}), plan)).values


@pytest.mark.parametrize("events", NETWORK_EVENTS)
def test_messages_without_noise_are_those_of_single_queries(
    make_images: MakeImages, tiny_info: DatasetInfo, events: str
) -> None:
    """With a clip that cuts nothing; with one that does, a joint row is cut by its own norm, to C as a whole."""
    data = make_images(70)
    roomy = Privacy(noise_multiplier=1.0, max_grad_norm=1e3)
    count = {"one": 1, "each": len(SEEDS)}[events]
    values = message(data, roomy.plan(1, count), asked(SEEDS, events), randomness=_Noiseless())
    for part, seed in zip(side_by_side(values), SEEDS, strict=True):
        weights = SPEC.build(tiny_info.shape, 3, seed).state_dict()
        lone = {"model": SPEC.to_json(), "granularity": "class"}
        own = message(data, roomy.plan(1), lone, randomness=_Noiseless(), name="class_gradients", tensors=dict(weights))
        scaled = part * (math.sqrt(len(SEEDS)) if events == "one" else 1.0)
        assert torch.allclose(scaled, own, atol=2 * 70 * 1e3 / LATTICE, rtol=0)
        assert float(own.abs().max()) > 100 * 70 * 1e3 / LATTICE  # there is something to compare
    one = ImageDataset(data.images[:1], data.labels[:1], data.info)
    tight = Privacy(noise_multiplier=1.0, max_grad_norm=1e-3)
    cut = message(one, tight.plan(1, count), asked(SEEDS, events), randomness=_Noiseless())
    norms = torch.stack([part.double().norm() for part in side_by_side(cut)])
    if events == "one":
        assert float(norms.square().sum().sqrt()) == pytest.approx(1e-3, rel=1e-3)
    else:
        assert norms.tolist() == pytest.approx([1e-3] * len(SEEDS), rel=1e-3)


@pytest.mark.parametrize("events", NETWORK_EVENTS)
def test_noise_and_charge_are_what_the_plan_says(make_images: MakeImages, events: str) -> None:
    """One event: noise sigma C on the joint row.  An event each: noise sigma C on each, and K events in the ledger."""
    empty = make_images(0)
    count = {"one": 1, "each": len(SEEDS)}[events]
    plan = Privacy(noise_multiplier=3.0, max_grad_norm=2.0, divisor=4.0).plan(1, count)
    client, run = Client("c", empty), Run("run-1", empty.info, plan)
    client.enroll(run)
    values = client.answer(Query("run-1", 0, NAME, asked(SEEDS, events), {}, plan)).values
    assert client.ledger.events == (SampledGaussian(3.0, 1.0, count),)
    parts = side_by_side(values)
    for part in parts:
        assert float(part.double().std()) == pytest.approx(3.0 * 2.0 / 4.0, rel=5 / math.sqrt(2 * part.numel()))
    assert not torch.equal(parts[0], parts[1])


def test_each_network_has_coins_of_its_own(make_images: MakeImages, tiny_info: DatasetInfo) -> None:
    one = make_images(1)
    plan = PrivacyPlan(1e-6, 0.5, 1.0, 1.0, 100, 1e-5, 2)
    joint = PrivacyPlan(1e-6, 0.5, 1.0, 1.0, 100, 1e-5)
    seen = {"one": set[tuple[bool, ...]](), "each": set[tuple[bool, ...]]()}
    for events, own in (("one", joint), ("each", plan)):
        client = Client("c", one)
        client.enroll(Run("run-1", tiny_info, own))
        for t in range(60):
            values = client.answer(Query("run-1", t, NAME, asked([1, 2], events), {}, own)).values
            seen[events].add(tuple(float(part.abs().max()) > 1e-3 for part in values.chunk(2, dim=1)))
    assert seen["one"] == {(False, False), (True, True)}  # missed once in 2^59
    assert seen["each"] == {(False, False), (True, True), (False, True), (True, False)}  # once in 10^7


def test_the_price_of_one_event_with_a_lone_network_s_noise() -> None:
    """docs/theorem.md, section 5: one event at sigma / sqrt(K) is K events at q = 1, and far dearer below."""
    k, delta = 10, 1e-5
    joint, each = SampledGaussian(1 / math.sqrt(k), 0.1), SampledGaussian(1.0, 0.1, k)
    assert epsilon([joint], delta, "prv") == pytest.approx(13.80, abs=0.02)
    assert epsilon([each], delta, "prv") == pytest.approx(2.85, abs=0.02)
    whole = [SampledGaussian(5 / math.sqrt(k), 1.0)], [SampledGaussian(5.0, 1.0, k)]
    assert epsilon(whole[0], delta, "gdp") == pytest.approx(epsilon(whole[1], delta, "gdp"), rel=1e-6)


@pytest.mark.parametrize("target", [1.0, 8.0])
@pytest.mark.parametrize("sample_rate", [0.1, 1.0])
def test_both_ways_are_calibrated_to_the_target(target: float, sample_rate: float) -> None:
    privacy = Privacy(target_epsilon=target, sample_rate=sample_rate)
    one, each = privacy.plan(20), privacy.plan(20, 4)
    for plan, count in ((one, 20), (each, 80)):
        assert plan.schedule == SampledGaussian(plan.noise_multiplier, sample_rate, count)
        assert target * 0.99 < plan.epsilon <= target
    ratio = each.noise_multiplier / one.noise_multiplier
    assert ratio == pytest.approx(2.0, rel=0.02) if sample_rate == 1 else 1.0 < ratio < 2.0


REFUSED: list[Any] = [
    asked([]),
    asked([1, 1]),
    asked([1, True]),
    asked([1, 2.0]),
    asked([-1]),
    asked([2**63]),
    asked("12"),
    asked(7),
    asked(None),
    asked([[1]]),
    asked(list(range(4097))),
    asked(SEEDS, "both"),
    asked(SEEDS, ["one"]),
    asked(SEEDS, None),
    asked(SEEDS, "one", "layer"),
    {"model": SPEC.to_json(), "granularity": "class"},
    asked() | {"more": 1},
]


@pytest.mark.parametrize("arguments", REFUSED, ids=lambda arguments: str(arguments)[80:160])
def test_hostile_arguments_are_refused_for_nothing(make_images: MakeImages, arguments: Any) -> None:
    data = make_images(3)
    plan = PrivacyPlan(2.0, 0.5, 1.0, 4.0, 1, 1e-5)
    client = Client("c", data)
    client.enroll(Run("run-1", data.info, plan))
    before = client.ledger.to_bytes()
    with pytest.raises((QueryRefusedError, ModelError, ConfigurationError)):
        client.answer(Query("run-1", 0, NAME, arguments, {}, plan))
    weights = SPEC.build(data.info.shape, 3, 0).state_dict()
    with pytest.raises(ModelError, match="tensors"):
        client.answer(Query("run-1", 0, NAME, asked(), dict(weights), plan))
    with pytest.raises(QueryRefusedError, match="3 measurements"):  # the plan says one
        client.answer(Query("run-1", 0, NAME, asked(SEEDS, "each"), {}, plan))
    assert client.ledger.to_bytes() == before
    client.answer(Query("run-1", 0, NAME, asked(), {}, plan))


@pytest.mark.parametrize("events", NETWORK_EVENTS)
def test_what_many_networks_cost_is_bounded_before_they_are_made(tiny_info: DatasetInfo, events: str) -> None:
    wide = asked(list(range(4096)), events) | {"model": {"name": "mlp", "arguments": {"width": 1024, "depth": 2}}}
    with pytest.raises(QueryRefusedError, match="GiB"):
        private_question(NAME, wide, {}, tiny_info, "cpu")
    costs = [GradientsAtSeeds.cost(asked(list(range(k)), events), tiny_info) for k in (1, 2, 64)]
    assert costs[2].work == 64 * costs[0].work == 32 * costs[1].work
    assert costs[0].memory < costs[1].memory < costs[2].memory
    enough = ComputeLimits(memory=GIB, work=costs[1].work)
    private_question(NAME, asked([1, 2], events), {}, tiny_info, "cpu", enough)
    with pytest.raises(QueryRefusedError, match="operations"):
        private_question(NAME, asked([1, 2, 3], events), {}, tiny_info, "cpu", enough)
