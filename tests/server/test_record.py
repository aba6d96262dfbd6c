"""What is known after a round: the running bill, by the rule of the claim, is computed where it is asked for."""

from __future__ import annotations

import dataclasses
import math

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


def test_the_line_says_that_nobody_answered_and_no_loss_where_nothing_was_matched() -> None:
    nobody = dataclasses.replace(record({"a": 100}), matching_loss=math.nan, answered=())
    assert progress.describe(nobody).startswith("nobody answered  epsilon so far 9.99 of 9.99")
    waiting = dataclasses.replace(nobody, answered=("a",))
    assert progress.describe(waiting).startswith("epsilon so far 9.99 of 9.99")


def test_who_has_answered_is_told_and_who_has_not_where_these_are_few() -> None:
    clients = ["north", "south", "east", "west", "middle"]
    assert progress.waiting(clients, set()) == "0 of 5 clients have replied"
    assert progress.waiting(clients, {"north"}) == "1 of 5 clients have replied"
    assert progress.waiting(clients, {"north", "west", "east"}) == "3 of 5 clients have replied, not yet south, middle"
    assert progress.waiting(clients, set(clients)) == "5 of 5 clients have replied"
