"""Any method's settings: what every card must state, what is looked at only where it is stated, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from private_distdd.data.info import DatasetInfo
from private_distdd.privacy.ledger import Ledger
from private_distdd.privacy.plan import Privacy
from private_distdd.release import Release, manifest_hash, verify_folder
from private_distdd.release.build import build_release
from private_distdd.synthetic.dataset import SyntheticDataset
from private_distdd.wire.run import Run

INFO = DatasetInfo("two grey classes", 2, (1, 4, 4))
PRIVACY = Privacy(noise_multiplier=1.5, delta=1e-5, sample_rate=0.2, max_grad_norm=0.5, divisor=8.0)
ROUNDS = 3
KNOBS: Mapping[str, Any] = {"latents": 8, "rounds": ROUNDS, "privacy": asdict(PRIVACY)}  # no ipc, no matching_steps


def release_of(
    settings: Mapping[str, Any], steps: int = 7, events_per_query: int = 1, pinned_events: int | None = None
) -> Release:
    """What a method of these settings would hand on, after three rounds in which both clients answered."""
    run = Run("third", INFO, PRIVACY.plan(ROUNDS, events_per_query))
    charged = PRIVACY.plan(ROUNDS, pinned_events or events_per_query)
    ledgers = {}
    for name in ("ann", "bob"):
        ledger = Ledger(client_id=name)
        ledger.pin("third", charged.event, ROUNDS, run.terms_digest)
        for t in range(ROUNDS):
            ledger.charge(charged.event, f"third:{t}")
            ledger.seal(f"third:{t}", "0" * 64)
        ledgers[name] = ledger.to_bytes()
    dataset = SyntheticDataset(torch.zeros(4, 1, 4, 4), torch.tensor([0, 0, 1, 1]), INFO)
    return build_release(
        dataset,
        run,
        ledgers,
        method="ThirdMethod",
        settings=settings,
        seeds="none",
        progress={"rounds_planned": ROUNDS, "rounds_done": ROUNDS, "matching_steps": steps, "stopped_early": False},
        messages=dict.fromkeys(ledgers, ROUNDS),
    )


def test_a_method_with_other_knobs_is_saved_loaded_and_verified(tmp_path: Path) -> None:
    folder = release_of(KNOBS).save(tmp_path / "third")
    assert verify_folder(folder) == []
    loaded = Release.load(folder)
    loaded.verify()
    assert loaded.card["method"] == {"name": "ThirdMethod", "settings": dict(KNOBS)}
    assert loaded.epsilon == dict.fromkeys(("ann", "bob"), PRIVACY.plan(ROUNDS).epsilon)
    assert len(manifest_hash(folder)) == 64
    assert "noisy releases" not in (folder / "card.html").read_text(encoding="utf-8")  # one a query goes without saying


@pytest.mark.parametrize("lost", ["rounds", "privacy"])
def test_what_every_method_states(lost: str) -> None:
    failures = release_of({name: value for name, value in KNOBS.items() if name != lost}).failures()
    assert failures == [f"card: settings: {lost} is missing"]


@pytest.mark.parametrize(
    ("stated", "finding"),
    [
        ({"ipc": 2}, None),
        ({"ipc": 3}, "ipc is 3 in the settings, 2 beside them"),
        ({"partition": 2}, "partition is 2 in the settings, S has 1"),
        ({"matching_steps": 2, "steps": 6}, None),
        ({"matching_steps": 2, "steps": 7}, "7 matching steps; by the ledgers, 6 to 6 were taken"),
        ({"matching_steps": 3, "matchings": 2, "refinement_rounds": 1, "steps": 6}, None),
        (
            {"matching_steps": 3, "matchings": 2, "refinement_rounds": 1, "steps": 9},
            "9 matching steps; by the ledgers, 6 to 6 were taken",
        ),
        (
            {"matching_steps": 3, "matchings": 2, "refinement_rounds": 1, "steps": 5},
            "5 matching steps; by the ledgers, 6 to 6 were taken",
        ),
        ({"matching_steps": 3, "matchings": 3, "steps": 9}, "card: S was matched 3 times, which its rounds do not say"),
        ({"matching_steps": 3, "matchings": 2, "steps": 6}, "card: S was matched 2 times, which its rounds do not say"),
        ({"steps": -1}, "-1 matching steps"),
        ({"rounds": 2}, "rounds is 2 in the settings, 3 were planned"),
        ({"initialization": "real"}, "initialization is 'real' in the settings, but with privacy it must be 'noise'"),
        ({"local_steps": 5}, "local_steps is 5 in the settings, but with privacy it must be 0"),
        ({"privacy": None}, "plan and settings disagree on whether the run had privacy"),
    ],
)
def test_what_is_stated_must_fit(stated: Mapping[str, Any], finding: str | None) -> None:
    settings = {name: value for name, value in stated.items() if name != "steps"}
    failures = release_of({**KNOBS, **settings}, stated.get("steps", 7)).failures()
    assert len(failures) == (finding is not None)
    assert finding is None or finding in failures[0]


def test_old_cards_name_the_one_relation_and_no_card_another() -> None:
    def said(relation: str) -> list[str]:
        return release_of({**KNOBS, "privacy": asdict(PRIVACY) | {"relation": relation}}).failures()

    assert said("add or remove one") == []
    assert len(said("replace one")) == 1
    assert "relation is 'replace one' in the settings" in said("replace one")[0]


@pytest.mark.parametrize("events", [2, 5])
def test_several_events_a_query_are_billed_one_by_one(events: int, tmp_path: Path) -> None:
    release = release_of(KNOBS, events_per_query=events)
    folder = release.save(tmp_path / "third")
    assert verify_folder(folder) == []
    assert f"<dt>noisy releases</dt><dd>{events} a query</dd>" in (folder / "card.html").read_text(encoding="utf-8")
    flat = PRIVACY.plan(ROUNDS * events)
    assert release.epsilon == dict.fromkeys(("ann", "bob"), flat.epsilon)
    for bill in release.card["clients"].values():
        assert bill["charges"] == ROUNDS
        assert bill["claim"] == bill["spent"] == bill["so_far"]


@pytest.mark.parametrize(("planned", "pinned"), [(3, 1), (1, 3), (2, 3)])
def test_a_plan_of_another_number_of_events_than_was_agreed_is_noticed(planned: int, pinned: int) -> None:
    release = release_of(KNOBS, events_per_query=planned, pinned_events=pinned)
    assert not release.private  # the claim is not the ledgers'
    assert any("agreed to" in line for line in release.failures())


@pytest.mark.parametrize(
    "edit",
    [
        lambda plan: plan.update(events_per_query=1),
        lambda plan: plan.update(events_per_query=2),
        lambda plan: plan.pop("events_per_query", None),
    ],
)
def test_the_number_of_events_on_a_card_cannot_be_changed(edit: Callable[[dict[str, Any]], object]) -> None:
    release = release_of(KNOBS, events_per_query=3)
    edit(release.card["plan"])
    assert release.failures()
