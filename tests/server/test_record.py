"""What is known after a round: the running bill, by the rule of the claim, is computed where it is asked for."""

from __future__ import annotations

import math

import pytest

from private_distdd.privacy.accountants import best_epsilon
from private_distdd.privacy.events import SampledGaussian
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.server import progress
from private_distdd.server.line import Traffic
from private_distdd.server.record import RoundRecord

PLAN = PrivacyPlan(1.0, 0.1, 1.0, 1.0, 100, 1e-5, events_per_query=2)


def record(used: dict[str, int], plan: PrivacyPlan | None = PLAN) -> RoundRecord:
    return RoundRecord(3, 100, 0.5, plan, used, ("a",), {"a": Traffic(1000, 10)})


def test_the_bill_of_each_client_is_by_the_rule_of_the_claim() -> None:
    bill = record({"a": 100, "b": 3, "c": 0}).epsilon
    assert bill == {"a": PLAN.epsilon, "b": best_epsilon([SampledGaussian(1.0, 0.1, 6)], 1e-5), "c": 0.0}
    assert record({"a": 1, "b": 0}, None).epsilon == {"a": math.inf, "b": 0.0}


def test_the_line_ends_at_the_epsilon_that_was_asked_for() -> None:
    assert progress.describe(record({"a": 100})).startswith("loss 0.500  epsilon so far 9.99 of 9.99  1.00 kB sent")
    assert "NOT PRIVATE" in progress.describe(record({"a": 1}, None))


def test_the_line_is_computed_at_most_once_a_second_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now, told = [100.0], list[int]()

    def describe(record: RoundRecord) -> str:
        told.append(record.server_round)
        now[0] += 0.3  # slow: a twentieth of the time may go into it, so the next is due after 6 s
        return "words"

    monkeypatch.setattr(progress, "describe", describe)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.progress_bar(100, unit="round", shown=True) as bar:
        for done in range(1, 101):
            now[0] += 0.1
            bar(done, record({"a": 1}))
    assert 2 <= len(told) <= 4
