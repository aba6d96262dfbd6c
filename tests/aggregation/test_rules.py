"""Aggregators: numpy's numbers, blind to the order of clients, and blind to how the data are split."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from private_distdd.aggregation import Mean, Median, Rule, Sum, TrimmedMean, register_rule, rule_of
from private_distdd.data.dataset import ImageDataset
from private_distdd.errors import ConfigurationError
from private_distdd.federation import aggregators
from private_distdd.federation.aggregators import trimmed_mean
from private_distdd.networks.spec import ModelSpec
from private_distdd.simulation.splits import dirichlet_split, shard_split
from private_distdd.site.client import Client
from private_distdd.wire.message import stack
from private_distdd.wire.query import Query
from private_distdd.wire.run import Run

BY_COORDINATE = ("mean", "median", "sum", "trimmed_mean")
BY_VECTOR = (
    "agreement",
    "bucketing",
    "centred_clipping",
    "geometric_median",
    "krum",
    "multi_krum",
    "nearest_neighbours",
    "norm_filter",
)
AGGREGATORS = {name: rule_of(name) for name in (*BY_COORDINATE, *BY_VECTOR)}

every_aggregator = pytest.mark.parametrize("name", sorted(AGGREGATORS))


def messages(clients: int, seed: int = 0, shape: tuple[int, ...] = (3, 4)) -> Tensor:
    return torch.randn((clients, *shape), generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 12), st.integers(0, 10**6), st.sampled_from([(), (1,), (3,), (3, 4), (2, 3, 4)]))
def test_equal_to_numpy(clients: int, seed: int, shape: tuple[int, ...]) -> None:
    own = messages(clients, seed, shape)
    array = own.numpy()
    assert np.allclose(aggregators.median(own), np.median(array, axis=0), atol=1e-6)
    assert np.allclose(aggregators.mean(own), array.mean(axis=0, dtype=np.float64), atol=1e-6)
    assert np.allclose(aggregators.sum(own), array.sum(axis=0, dtype=np.float64), atol=1e-5)
    for trim in (0.0, 0.1, 0.25, 0.34, 0.49):
        assert np.allclose(trimmed_mean(own, trim=trim), stats.trim_mean(array, trim, axis=0), atol=1e-6)


@given(st.integers(1, 9), st.integers(0, 10**6))
def test_with_counts_absent_clients_are_left_out(clients: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 3, (clients, 3)) * rng.integers(0, 2, (clients, 3))
    means = rng.standard_normal((clients, 3, 4)).astype(np.float32)
    sums = torch.from_numpy(means * counts[..., None].astype(np.float32))
    held = torch.from_numpy(counts)
    found = {name: AGGREGATORS[name](sums, held) for name in BY_COORDINATE}
    for group in range(3):
        own = means[counts[:, group] > 0, group]
        if not len(own):
            assert not any(value[group].any() for value in found.values())
            continue
        weights = counts[counts[:, group] > 0, group]
        expected = {
            "mean": np.average(own, axis=0, weights=weights),  # over examples, not over clients
            "sum": (own * weights[:, None]).sum(axis=0),
            "median": np.median(own, axis=0),
            "trimmed_mean": stats.trim_mean(own, 0.1, axis=0),
        }
        for name, value in expected.items():
            assert np.allclose(found[name][group], value, atol=1e-5), name


@every_aggregator
@given(clients=st.integers(1, 9), seed=st.integers(0, 10**6), counted=st.booleans())
def test_the_order_of_clients_changes_nothing(name: str, clients: int, seed: int, counted: bool) -> None:
    rng = np.random.default_rng(seed)
    own, order = messages(clients, seed), torch.from_numpy(rng.permutation(clients))
    counts = torch.from_numpy(rng.integers(0, 4, (clients, 3))) if counted else None
    first = AGGREGATORS[name](own, counts)
    second = AGGREGATORS[name](own[order], None if counts is None else counts[order])
    assert torch.allclose(first, second, atol=1e-6)
    assert first.shape == own.shape[1:]
    assert first.dtype == own.dtype


@every_aggregator
@given(seed=st.integers(0, 10**6))
def test_coordinates_and_groups_are_treated_alike(name: str, seed: int) -> None:
    own = messages(6, seed)
    order, groups = torch.randperm(4), torch.randperm(3)
    assert torch.equal(AGGREGATORS[name](own[:, groups]), AGGREGATORS[name](own)[groups])
    if name == "bucketing":  # its buckets follow from the messages' bytes
        return
    assert torch.allclose(AGGREGATORS[name](own[..., order]), AGGREGATORS[name](own)[..., order], atol=1e-6)
    assert torch.allclose(AGGREGATORS[name](own * 2), AGGREGATORS[name](own) * 2, atol=1e-6)


@every_aggregator
def test_the_messages_are_left_alone(name: str) -> None:
    own, counts = messages(5), torch.ones(5, 3, dtype=torch.int64)
    kept = own.clone()
    AGGREGATORS[name](own)
    AGGREGATORS[name](own, counts)
    assert torch.equal(own, kept)


@pytest.mark.parametrize("name", ["median", "trimmed_mean"])
def test_a_minority_cannot_move_the_robust_ones_far(name: str) -> None:
    own = messages(11)
    spoilt = own.clone()
    spoilt[:1] = 1e30
    assert float((AGGREGATORS[name](spoilt) - AGGREGATORS[name](own)).abs().max()) < 3
    assert float((AGGREGATORS["mean"](spoilt) - AGGREGATORS["mean"](own)).abs().max()) > 1e28


def test_a_mean_keeps_small_clients_beside_large_ones() -> None:
    own = torch.tensor([1e8, 1.0, -1e8]).reshape(3, 1)  # in float32 the 1 would vanish
    assert float(aggregators.sum(own)) == 1.0
    assert float(aggregators.mean(own)) == pytest.approx(1 / 3)


@every_aggregator
def test_nobody_is_an_error(name: str) -> None:
    with pytest.raises(ConfigurationError, match="at least one client"):
        AGGREGATORS[name](torch.zeros(0, 3))
    with pytest.raises(ConfigurationError):
        AGGREGATORS[name](torch.zeros(()))


@every_aggregator
@pytest.mark.parametrize("shape", [(5,), (5, 2), (4, 3), (5, 3, 4)])
def test_counts_of_another_shape_are_an_error(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigurationError, match="counts"):
        AGGREGATORS[name](messages(5), torch.ones(shape, dtype=torch.int64))


@pytest.mark.parametrize("trim", [-0.1, 0.5, 1.0, math.nan])
def test_trims(trim: float) -> None:
    with pytest.raises(ConfigurationError, match="trim"):
        trimmed_mean(messages(5), trim=trim)
    with pytest.raises(ConfigurationError, match="share"):
        TrimmedMean(share=trim)
    with pytest.raises(ConfigurationError, match="share"):
        rule_of(f"trimmed_mean(share={trim})" if trim == trim else "trimmed_mean(share=-1.0)")


@pytest.mark.parametrize(
    ("rule", "clients"),
    [("median", 1), ("median", 2), ("trimmed_mean", 9), (TrimmedMean(share=0.0), 5), (TrimmedMean(0.2), 4)],
)
def test_too_few_clients(rule: str | Rule, clients: int) -> None:
    with pytest.raises(ConfigurationError) as caught:
        rule_of(rule).require(clients)
    assert rule_of(rule).name in str(caught.value)


def test_enough_clients() -> None:
    own = messages(10)
    for rule, least, expected in (
        (TrimmedMean(0.3), 4, trimmed_mean(own, trim=0.3)),
        (Median(), 3, aggregators.median(own)),
        (Mean(), 1, aggregators.mean(own)),
        (Sum(), 1, aggregators.sum(own)),
    ):
        rule.require(least)
        assert torch.equal(rule(own, None), expected)


@pytest.mark.parametrize("rule", [Mean(), Sum(), Median(), TrimmedMean(), TrimmedMean(share=0.2)])
def test_a_rule_s_text_names_it(rule: Rule) -> None:
    assert rule_of(str(rule)) == rule == rule_of(rule)
    assert hash(rule_of(str(rule))) == hash(rule)
    assert str(Mean()) == "mean"
    assert str(TrimmedMean(0.2)) == "trimmed_mean(share=0.2)"


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            "krum?",
            "",
            "own",
            "Mean",
            "mean(",
            "mean(1)",
            "mean(x=1)",
            "krum(share=0.1)",
            "median()()",
            "sum;sum",
            None,
            3,
        ),
        *(f"trimmed_mean({text})" for text in ("0.1", "share=open('x')", "share=True", "share='a'", "share=1/4")),
    ],
)
def test_texts_that_name_no_rule(wrong: Any) -> None:
    with pytest.raises(ConfigurationError):
        rule_of(wrong)


def test_a_callable_of_one_s_own() -> None:
    def largest(own: Tensor, counts: Tensor | None) -> Tensor:
        return own.amax(dim=0)

    rule = rule_of(largest)
    own = messages(5)
    assert torch.equal(rule(own), own.amax(dim=0))
    assert str(rule).startswith("own: ")
    assert str(rule).endswith("largest")
    for bad in (lambda own, counts: own, lambda own, counts: 1.0):
        with pytest.raises(ConfigurationError, match="own: "):
            rule_of(bad)(own)


def test_a_new_rule_is_one_class_and_one_registration() -> None:
    @register_rule
    @dataclasses.dataclass(frozen=True)
    class Clamped(Rule):
        name: ClassVar[str] = "clamped_for_a_test"
        most: float = 1.0

        def __call__(self, own: Tensor, counts: Tensor | None = None) -> Tensor:
            return own.clamp(-self.most, self.most).mean(dim=0)

    assert rule_of("clamped_for_a_test(most=0.5)") == Clamped(0.5)
    with pytest.raises(ConfigurationError, match="taken"):

        @register_rule
        @dataclasses.dataclass(frozen=True)
        class Other(Rule):
            name: ClassVar[str] = "clamped_for_a_test"

            def __call__(self, own: Tensor, counts: Tensor | None = None) -> Tensor:
                return own[0]


def aggregate_of(clients: list[Client], name: str = "mean") -> Tensor:
    info, spec = clients[0].info, ModelSpec("mlp", {"width": 8, "depth": 1})
    assert info is not None
    run = Run("run-1", info, None)
    arguments: dict[str, Any] = {"model": spec.to_json(), "granularity": "class"}
    weights = dict(spec.build(info.shape, info.num_classes, 0).state_dict())
    query = Query("run-1", 0, "class_gradients", arguments, weights, None)
    answers = []
    for client in clients:
        client.allow_without_privacy = True
        client.enroll(run)
        answers.append(client.answer(query))
    values, counts = stack(answers)
    return AGGREGATORS[name](values, counts)


def test_the_split_over_clients_changes_nothing(digits: ImageDataset) -> None:
    """Without privacy: the mean over all examples, however they are spread."""
    splits: list[Callable[[], list[Client]]] = [
        lambda: dirichlet_split(digits, 8, 0.05, seed=1),
        lambda: dirichlet_split(digits, 8, math.inf),
        lambda: dirichlet_split(digits, 3, 0.05, seed=2, min_size=0),
        lambda: shard_split(digits, 8),
        lambda: [Client("all", digits)],
    ]
    found = [aggregate_of(split()) for split in splits]
    scale = float(found[0].abs().max())
    for other in found[1:]:
        assert float((other - found[0]).abs().max()) < 1e-5 * scale
    # The test can see a mean of client means, the classic mistake:
    from_dirichlet = aggregate_of(splits[0](), "trimmed_mean")
    assert float((from_dirichlet - found[0]).abs().max()) > 1e-3 * scale
