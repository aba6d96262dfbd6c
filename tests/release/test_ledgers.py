"""The card against the ledgers: runs that stopped, recoveries, pins and budgets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from interrupts import interrupted
from releases import INFO, PRIVACY, ROUNDS, STEPS, Built, chained

from private_distdd.data.dataset import ImageDataset
from private_distdd.methods.distdd import DistDD
from private_distdd.privacy.events import NotPrivate, SampledGaussian
from private_distdd.privacy.ledger import Budget, Ledger, Open, parse
from private_distdd.release.bill import bill_of
from private_distdd.release.release import verify_folder
from private_distdd.site.client import Client
from private_distdd.wire.message import Message
from private_distdd.wire.query import Query


def test_a_release_stopped_in_the_middle_of_a_round_verifies() -> None:
    built = Built()
    built.rounds, built.used = [0, 1], 2
    built.progress |= {"rounds_done": 1, "matching_steps": 3, "stopped_early": True}
    assert built.failures() == []
    built.progress["rounds_done"] = 0
    assert any("charged for round 2" in line for line in built.failures())


@pytest.mark.parametrize("who", ["ann", "bob"])
def test_a_run_interrupted_between_two_answers_verifies(who: str, tmp_path: Path) -> None:
    class Interrupted(Client):
        def answer(self, query: Query) -> Message:
            message = super().answer(query)
            if self.client_id == who and query.server_round == 1:
                raise KeyboardInterrupt
            return message

    images = ImageDataset(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]), INFO)
    clients = [Interrupted(name, images) for name in ("ann", "bob")]
    method = DistDD(ipc=2, rounds=ROUNDS, matching_steps=STEPS, model="mlp", privacy=PRIVACY)
    release = interrupted(method.fit, clients)
    assert release.card["progress"]["stopped_early"]
    assert release.card["clients"][who]["charges"] == 2
    assert release.card["clients"][who]["messages_used"] == 1
    assert verify_folder(release.save(tmp_path / "run")) == []


def test_a_whole_built_release_verifies() -> None:
    assert Built().failures() == []


def test_a_recovered_charge_counts_for_its_run(tmp_path: Path) -> None:
    path = tmp_path / "ann.jsonl"
    built = Built()
    built.rounds, built.used = [0, 1], 2
    built.progress |= {"rounds_done": 2, "matching_steps": 4, "stopped_early": True}
    path.write_bytes(built.ledger() + b'{"crc":"')
    with Ledger(path) as ledger:
        recovered = ledger.to_bytes()
    bill = bill_of(parse(recovered), built.run)
    assert bill["charges"] == 3
    built.ledger = lambda: recovered  # type: ignore[method-assign]
    assert built.failures() == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"pinned": None}, "never agreed"),
        ({"pinned": (PRIVACY.plan(1).event, 4)}, "agreed to 4 queries, the plan says 3"),
        ({"pinned": (SampledGaussian(1.0, 0.2), 3), "charged": SampledGaussian(1.0, 0.2)}, "noise_multiplier=1.0"),
        ({"client_id": "eve"}, "that of client eve"),
        ({"used": 4}, "4 messages used, but 3 are sealed"),
        ({"used": -1}, "-1 messages used"),
        ({"rounds": [0, 1], "used": 2}, "6 matching steps; by the ledgers, 4 to 4"),
        ({"rounds": [0, 1, 7]}, "charged for round 8"),
    ],
)
def test_a_ledger_that_does_not_fit_the_plan_is_noticed(change: dict[str, Any], line: str) -> None:
    built = Built()
    for name, value in change.items():
        setattr(built, name, value)
    assert any(line in failure for failure in built.failures())


def test_a_ledger_without_noise_makes_the_card_say_not_private() -> None:
    built = Built()
    built.pinned, built.charged = (NotPrivate(), 3), NotPrivate()
    assert built.failures() == []


def test_an_overspent_budget_is_noticed() -> None:
    built = Built()
    forged = chained([Open("ann", Budget(0.5, 1e-5)), *parse(built.ledger()).entries[1:]])
    built.ledger = lambda: forged  # type: ignore[method-assign]
    assert any("has spent" in line for line in built.failures())
