"""Forgery: whoever can write the folder redoes the manifest, and is noticed by all that follows from the ledgers."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from releases import ROUNDS, Edit, files_of, forge, leaves, seal

from private_distdd.privacy.events import RELATION
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.release.bill import epsilons
from private_distdd.release.folder import pretty
from private_distdd.release.release import Release, verify_folder

# What no other part of the folder can contradict; documented at `Release.verify`.
FREE = {
    ("progress", "stopped_early"),  # in the last round, that is; see the forged cards
    ("seeds",),
    ("method", "name"),
    # and ("traffic", ...), but for its names and what the ledger alone takes
    *(("versions", name) for name in ("python", "private-distdd", "torch", "opacus", "numpy")),
}


CHECKED_SETTINGS = {"ipc", "rounds", "matching_steps", "privacy"}


def test_every_number_and_name_on_the_card_is_checked(private: Release, folder: Path) -> None:
    original = files_of(folder)
    tried = 0
    for path in leaves(json.loads(original["card.json"])):
        free = path[:2] == ("method", "settings") and path[2] not in CHECKED_SETTINGS
        if free or path in FREE or path[0] == "traffic":
            continue
        place = card = json.loads(original["card.json"])
        for name in path[:-1]:
            place = place[name]
        used = path[-1] == "messages_used"  # fewer may be true: a reply can be lost on its way
        place[path[-1]] = ROUNDS + 1 if used else other(place[path[-1]])
        (folder / "card.json").write_bytes(pretty(card))
        seal(folder)  # the page is left: it must be the card that is found wrong, too
        failures = verify_folder(folder)
        assert [line for line in failures if not line.startswith("card.html does not")], (path, failures)
        tried += 1
    assert tried > 60
    assert private.failures() == []


def other(value: Any) -> Any:
    """A value of the same kind, only a little different."""
    match value:
        case bool():
            return not value
        case int():
            return value - 1 if value > 1 else value + 1
        case float():
            return value * 0.999
        case str():
            return value[:-1] + ("0" if value[-1:] != "0" else "1")
        case None:
            return 1.5
    return [*value, 1]


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (lambda c: c["plan"].update(max_queries=2), "agreed to 3 queries, the plan says 2"),
        (lambda c: c["plan"].update(noise_multiplier=3.0), "the plan says SampledGaussian(noise_multiplier=3.0"),
        (lambda c: c["plan"].update(delta=1e-2), "claim.prv"),
        (lambda c: c["clients"].pop("bob"), "ledgers: ['ann', 'bob'] are there"),
        (lambda c: c.update(certified="by eve"), "'certified' is no field"),
        (lambda c: c.pop("unit"), "unit is missing"),
        (lambda c: c.update(plan=None, noise_model="none"), "no plan"),
        (lambda c: c["progress"].update(matching_steps=7), "7 matching steps"),
        (lambda c: c["progress"].update(rounds_done=4), "4 of 3 rounds"),
        (lambda c: c["progress"].update(rounds_done=2), "stopped_early is False with 2 of 3"),
        (lambda c: c["progress"].update(rounds_done=True), "rounds_done is True"),
        (lambda c: c["traffic"].pop("bob"), "traffic of ['ann'], not of ['ann', 'bob']"),
        (lambda c: c["traffic"].update(eve=c["traffic"]["bob"]), "traffic of ['ann', 'bob', 'eve']"),
        (lambda c: c["traffic"]["bob"].update(sent=1000), "its ledger alone has"),
        (lambda c: c["traffic"]["bob"].update(received=-1), "traffic of client bob"),
        (lambda c: c["traffic"]["bob"].update(sent=1e6), "sent is 1000000.0"),
        (lambda c: c["traffic"]["bob"].pop("sent"), "sent is missing"),
        (lambda c: c["method"]["settings"]["privacy"].update(target_epsilon=0.5), "more than the target 0.5"),
    ],
)
def test_forged_cards(folder: Path, edit: Edit, line: str) -> None:
    failures = forge(folder, edit)
    assert any(line in failure for failure in failures), failures


def test_a_consistent_forgery_of_the_plan_meets_the_ledgers_pins(private: Release) -> None:
    """The forger rebuilds the whole card for a shorter schedule: only the pin in the ledgers contradicts it."""
    card = copy.deepcopy(dict(private.card))
    card["plan"]["max_queries"] = 2
    plan = PrivacyPlan.from_json(card["plan"])
    for bill in card["clients"].values():
        bill["claim"] = epsilons([plan.schedule], plan.delta)
    failures = Release(private.dataset, card, private.ledgers).failures()
    assert "client ann: its ledger agreed to 3 queries, the plan says 2" in failures


@pytest.mark.parametrize(("name", "value"), [("max_grad_norm", 0.25), ("divisor", 4.0), ("delta", 1e-6)])
def test_a_consistent_forgery_of_the_terms_meets_the_ledgers_pins(private: Release, name: str, value: float) -> None:
    """C, b and delta enter no event; the digest of the terms in each ledger's pin holds them."""
    card = copy.deepcopy(dict(private.card))
    card["plan"][name] = card["method"]["settings"]["privacy"][name] = value
    failures = Release(private.dataset, card, private.ledgers).failures()
    assert any("agreed to other terms" in failure for failure in failures)


def test_a_release_of_nobody_is_not_private(private: Release) -> None:
    card = dict(private.card) | {"clients": {}}
    assert "card: it names no client" in Release(private.dataset, card, {}).failures()


def test_what_cannot_be_noticed_is_what_the_docstring_says(private: Release) -> None:
    """A client left out with its ledger: nothing else in the folder names it."""
    card = dict(private.card) | {name: {"ann": private.card[name]["ann"]} for name in ("clients", "traffic")}
    assert Release(private.dataset, card, {"ann": private.ledgers["ann"]}).failures() == []
    assert "a client left out with its ledger" in " ".join((Release.verify.__doc__ or "").split())


@pytest.mark.parametrize(
    ("name", "value"),
    [("initialization", "real"), ("batch_per_class", 64), ("local_steps", 100), ("memo", "x" * 20_000)],
)
def test_settings_that_contradict_a_private_plan_are_noticed(folder: Path, name: str, value: Any) -> None:
    found = forge(folder, lambda card: card["method"]["settings"].update({name: value}))
    assert any(name in line or "characters" in line for line in found)


def test_the_only_relation_may_be_left_out_of_the_settings_and_no_other_one_stands(private: Release) -> None:
    """Cards of earlier versions name it; there is none beside it."""

    def failures(**named: str) -> list[str]:
        card = copy.deepcopy(dict(private.card))
        card["method"]["settings"]["privacy"] |= named
        return Release(private.dataset, card, private.ledgers).failures()

    assert "relation" not in private.card["method"]["settings"]["privacy"]
    assert failures() == failures(relation=RELATION) == []
    (line,) = failures(relation="replace one")
    assert "relation is 'replace one'" in line
