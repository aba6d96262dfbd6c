"""`Privacy` and `PrivacyPlan`: every bad value is refused with its value and the allowed range."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any, Literal

import pytest

from private_distdd.encoding import to_json
from private_distdd.errors import ConfigurationError
from private_distdd.privacy.accountants import epsilon
from private_distdd.privacy.events import SampledGaussian
from private_distdd.privacy.plan import Privacy, PrivacyPlan

GOOD = {
    "noise_multiplier": 1.5,
    "sample_rate": 0.05,
    "max_grad_norm": 0.1,
    "divisor": 7.0,
    "max_queries": 20,
    "delta": 1e-5,
}
NUMBERS = [0, -1.0, math.nan, math.inf, -math.inf, "1", None, True, [1]]
BAD = [
    *(("noise_multiplier", value) for value in [*NUMBERS, 2.0**20 * 1.001]),
    *(("sample_rate", value) for value in [*NUMBERS, 1.0001, -0.1]),
    *(("max_grad_norm", value) for value in [*NUMBERS, 9e-31, 1.1e30]),
    *(("divisor", value) for value in [*NUMBERS, 9e-31, 1.1e30]),
    *(("max_queries", value) for value in [0, -1, 1.0, math.nan, "1", None, True]),
    *(("delta", value) for value in [*NUMBERS, 1, 1.5]),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_plan_refuses(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        PrivacyPlan(**(GOOD | {name: value}))
    text = str(caught.value)
    assert f"{name} = {value!r}" in text
    assert "allowed: " in text
    assert len(caught.value.allowed) > 3
    assert caught.value.remedy


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, v in BAD if n != "max_queries" and v is not None])
def test_privacy_refuses_the_same(name: str, value: Any) -> None:
    own = {"noise_multiplier": 1.0} | {name: value}
    with pytest.raises(ConfigurationError, match=name):
        Privacy(**own)
    if name != "noise_multiplier":
        with pytest.raises(ConfigurationError, match=name):
            Privacy(target_epsilon=1.0, **{name: value})


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "8", True])
def test_privacy_refuses_a_target(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="target_epsilon"):
        Privacy(target_epsilon=value)


def test_there_is_one_relation_and_no_other_can_be_asked_for() -> None:
    for relation in ("add or remove one", "replace one"):
        with pytest.raises(TypeError, match="relation"):
            Privacy(target_epsilon=1.0, relation=relation)  # type: ignore[call-arg]


@pytest.mark.parametrize("own", [{}, {"target_epsilon": 1.0, "noise_multiplier": 1.0}])
def test_exactly_one_of_target_and_noise(own: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="exactly one") as caught:
        Privacy(**own)
    assert "target_epsilon = " in str(caught.value)
    assert "noise_multiplier = " in str(caught.value)


def test_ends_of_the_ranges_are_in() -> None:
    for name, value in (
        ("noise_multiplier", 2.0**20),
        ("sample_rate", 1),
        ("sample_rate", 1e-9),
        ("max_grad_norm", 1e-30),
        ("max_grad_norm", 1e30),
        ("divisor", 1e-30),
        ("divisor", 1e30),
        ("delta", 1e-300),
    ):
        assert getattr(PrivacyPlan(**(GOOD | {name: value})), name) == value


def test_events_of_a_plan() -> None:
    plan = PrivacyPlan(**GOOD)
    assert plan.event == SampledGaussian(1.5, 0.05, 1)
    assert plan.schedule == SampledGaussian(1.5, 0.05, 20)
    assert plan.epsilon == min(epsilon([plan.schedule], 1e-5, name) for name in ("rdp", "prv"))


@pytest.mark.parametrize(("target", "rate"), [(8.0, 1.0), (8.0, 0.1), (0.5, 1.0), (0.5, 0.1), (0.1, 0.01)])
def test_calibration_keeps_the_target_and_does_not_waste_it(target: float, rate: float) -> None:
    plan = Privacy(target_epsilon=target, sample_rate=rate).plan(30)
    assert target * 0.99 < plan.epsilon <= target
    assert plan.max_queries == 30
    more = Privacy(target_epsilon=target, sample_rate=rate).plan(31)
    assert more.noise_multiplier > plan.noise_multiplier


def test_given_noise_is_kept() -> None:
    plan = Privacy(noise_multiplier=3, sample_rate=1, max_grad_norm=2, divisor=5, delta=1e-6).plan(4)
    assert plan == PrivacyPlan(3.0, 1.0, 2.0, 5.0, 4, 1e-6)
    assert all(isinstance(getattr(plan, n), float) for n in GOOD if n != "max_queries")


@pytest.mark.parametrize("queries", [0, -3, 1.5, True, None])
def test_planning_refuses(queries: Any) -> None:
    for privacy in (Privacy(noise_multiplier=1.0), Privacy(target_epsilon=1.0)):
        with pytest.raises(ConfigurationError, match="max_queries"):
            privacy.plan(queries)


def test_plan_json_round_trip() -> None:
    plan = PrivacyPlan(**(GOOD | {"noise_multiplier": 1 / 3}))
    assert PrivacyPlan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    "record",
    [None, [], "plan", {}, {k: v for k, v in GOOD.items() if k != "delta"}, GOOD | {"more": 1}, GOOD | {"delta": "x"}],
)
def test_plan_json_refuses(record: Any) -> None:
    with pytest.raises(ConfigurationError):
        PrivacyPlan.from_json(record)


# Several events a query


def test_one_event_a_query_is_written_as_it_always_was() -> None:
    """Ledgers pinned the hash of these bytes: they may never change."""
    plan = PrivacyPlan(1.5, 0.05, 0.1, 1.0, 200, 1e-5)
    assert to_json(plan.to_json()) == (
        '{"delta":1e-05,"divisor":1.0,"max_grad_norm":0.1,"max_queries":200,"noise_multiplier":1.5,"sample_rate":0.05}'
    )
    assert PrivacyPlan.from_json(plan.to_json()) == plan
    with pytest.raises(ConfigurationError, match="where it is 1"):
        PrivacyPlan.from_json({**plan.to_json(), "events_per_query": 1})


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
def test_several_events_a_query_cost_what_so_many_queries_do(accountant: Literal["rdp", "prv"]) -> None:
    several, flat = PrivacyPlan(2.0, 0.1, 1.0, 1.0, 5, 1e-5, 8), PrivacyPlan(2.0, 0.1, 1.0, 1.0, 40, 1e-5)
    assert several.event == SampledGaussian(2.0, 0.1, 8)
    assert several.schedule == flat.schedule
    assert several.epsilon == flat.epsilon
    found = [epsilon([plan.event] * plan.max_queries, 1e-5, accountant) for plan in (several, flat)]
    assert found[0] == found[1] > epsilon([SampledGaussian(2.0, 0.1, 5)], 1e-5, accountant)
    assert PrivacyPlan.from_json(several.to_json()) == several
    assert several.to_json()["events_per_query"] == 8


def test_the_noise_is_calibrated_for_all_events() -> None:
    privacy = Privacy(target_epsilon=2.0, sample_rate=0.2)
    assert privacy.plan(5, 8).noise_multiplier == privacy.plan(40).noise_multiplier > privacy.plan(5).noise_multiplier
    assert privacy.plan(5, 8).epsilon <= 2.0


@pytest.mark.parametrize("events", [0, -1, 1.0, True, "3", None, 10**7])
def test_numbers_of_events(events: Any) -> None:
    for make in (lambda: PrivacyPlan(1.0, 1.0, 1.0, 1.0, 1, 1e-5, events), lambda: Privacy(1.0).plan(2, events)):
        with pytest.raises(ConfigurationError, match="events_per_query"):
            make()


def test_a_large_delta_is_refused_unless_it_is_allowed_by_name() -> None:
    with pytest.raises(ConfigurationError, match=r"delta <= 0.001\. .*allow_large_delta=True"):
        Privacy(noise_multiplier=1.0, delta=0.5)
    assert Privacy(noise_multiplier=1.0, delta=1e-3).delta == 1e-3
    allowed = Privacy(noise_multiplier=1.0, delta=0.5, allow_large_delta=True)
    assert allowed.plan(1) == PrivacyPlan(1.0, 1.0, 1.0, 1.0, 1, 0.5)
    assert set(asdict(allowed)) == set(asdict(Privacy(noise_multiplier=1.0)))
    assert "allow_large_delta" not in asdict(allowed)  # cards and checkpoints have the fields that they had
    with pytest.raises(ConfigurationError, match="allow_large_delta = 1"):
        Privacy(noise_multiplier=1.0, delta=0.5, allow_large_delta=1)  # type: ignore[arg-type]


def test_a_schedule_that_has_no_price_is_no_plan() -> None:
    assert PrivacyPlan(1000.0, 1.0, 1.0, 1.0, 10**15, 1e-5).max_queries == 10**15
    for queries, events in ((10**15 + 1, 1), (10**20, 1), (10**10, 10**6)):
        with pytest.raises(ConfigurationError, match="max_queries"):
            PrivacyPlan(1000.0, 1.0, 1.0, 1.0, queries, 1e-5, events)
