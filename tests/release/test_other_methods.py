"""A card of a method that nobody knows yet: its own knobs stand in the settings, and every check still bites."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from releases import ROUNDS, Built, Edit, leaves

from private_distdd.release.release import Release


@pytest.fixture
def third() -> Built:
    """A method with neither `ipc` nor `matching_steps` among its settings."""
    built = Built()
    built.method = "Third"
    built.settings = {"rounds": ROUNDS, "parametrisation": "small", "temperature": 0.5}
    return built


def forged(built: Built, edit: Edit) -> list[str]:
    release = built.release()
    card = copy.deepcopy(dict(release.card))
    edit(card)
    return Release(release.dataset, card, release.ledgers).failures()


@pytest.mark.parametrize("steps", [0, 1, 6, 1000])
def test_a_card_with_other_knobs_verifies(third: Built, steps: int) -> None:
    third.progress["matching_steps"] = steps  # how many it takes is its own affair
    assert third.failures() == []


def test_a_run_that_stopped_early_verifies_too(third: Built) -> None:
    third.rounds, third.used = [0, 1], 2
    third.progress |= {"rounds_done": 1, "stopped_early": True}
    assert third.failures() == []


def test_steps_need_somebody_who_answered(third: Built) -> None:
    third.rounds, third.used = [], 0
    assert third.failures() == ["card: 6 matching steps; by the ledgers, nobody answered"]
    third.progress["matching_steps"] = 0
    assert third.failures() == []
    third.progress["matching_steps"] = -1
    assert third.failures() == ["card: -1 matching steps"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"pinned": None}, "never agreed"),
        ({"client_id": "eve"}, "that of client eve"),
        ({"used": 4}, "4 messages used, but 3 are sealed"),
        ({"rounds": [0, 1, 7]}, "charged for round 8"),
    ],
)
def test_its_ledgers_must_fit_the_plan(third: Built, change: dict[str, Any], line: str) -> None:
    for name, value in change.items():
        setattr(third, name, value)
    assert any(line in failure for failure in third.failures())


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (lambda c: c["plan"].update(max_queries=2), "agreed to 3 queries, the plan says 2"),
        (lambda c: c["plan"].update(events_per_query=2), "a query, the plan says"),
        (lambda c: c["plan"].update(noise_multiplier=3.0), "the plan says SampledGaussian(noise_multiplier=3.0"),
        (lambda c: c["plan"].update(delta=1e-2), "claim.prv"),
        (lambda c: c["clients"].pop("ann"), "ledgers: ['ann'] are there"),
        (lambda c: c.update(private=False), "private is False"),
        (lambda c: c.update(plan=None, noise_model="none"), "no plan"),
        (lambda c: c.update(ipc=2), "ipc is 2, but it must be 1"),
        (lambda c: c["progress"].update(rounds_done=4), "4 of 3 rounds"),
        (lambda c: c["method"]["settings"].pop("rounds"), "settings: rounds is missing"),
        (lambda c: c["method"]["settings"].pop("privacy"), "settings: privacy is missing"),
        (lambda c: c["method"]["settings"].update(rounds=4), "rounds is 4 in the settings, 3 were planned"),
        (lambda c: c["method"]["settings"].update(ipc=2), "ipc is 2 in the settings, 1 beside them"),
        (lambda c: c["method"]["settings"].update(partition=2), "partition is 2 in the settings, S has 1"),
        (lambda c: c["method"]["settings"].update(matching_steps=1), "6 matching steps; by the ledgers, 3 to 3"),
        (lambda c: c["method"]["settings"].update(initialization="real"), "it must be 'noise'"),
        (lambda c: c["method"]["settings"].update(local_steps=5), "it must be 0"),
        (lambda c: c["method"]["settings"].update(memo="x" * 20_000), "characters"),
        (lambda c: c["method"]["settings"].update(privacy=None), "disagree on whether the run had privacy"),
        (lambda c: c["method"]["settings"]["privacy"].update(relation="replace one"), "relation is 'replace one'"),
        (lambda c: c["method"]["settings"]["privacy"].update(target_epsilon=0.5), "more than the target 0.5"),
    ],
)
def test_a_forged_card_of_it_is_noticed(third: Built, edit: Edit, line: str) -> None:
    failures = forged(third, edit)
    assert any(line in failure for failure in failures), failures


# What no other part of the folder can contradict; the steps are the method's own affair.
FREE = {("seeds",), ("method", "name"), ("progress", "stopped_early"), ("progress", "matching_steps")}
CHECKED_SETTINGS = {"rounds", "privacy"}


def test_every_other_number_and_name_on_its_card_is_checked(third: Built) -> None:
    tried = 0
    for path in leaves(third.release().card):
        own = path[:2] == ("method", "settings") and path[2] not in CHECKED_SETTINGS
        if path in FREE or own or path[0] == "versions":
            continue

        def edit(card: Any, path: tuple[str, ...] = path) -> None:
            for name in path[:-1]:
                card = card[name]
            old = card[path[-1]]
            nudged: dict[type, Any] = {bool: not old, int: 99, float: 0.1234, str: "other", list: [9], type(None): 1.5}
            card[path[-1]] = nudged[type(old)]

        assert forged(third, edit), path
        tried += 1
    assert tried > 40
