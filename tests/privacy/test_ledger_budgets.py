"""A ledger's lifetime budget."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import pytest
from ledgers import CHEAP, DEAR

from private_distdd.errors import BudgetExceededError, QueryRefusedError
from private_distdd.privacy import accountants
from private_distdd.privacy.events import Composition, Event, NotPrivate, SampledGaussian, merge
from private_distdd.privacy.ledger import Budget, Ledger


@pytest.fixture
def additive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accountants one can do sums with: a release costs 1 / sigma, whatever delta."""

    def cost(events: Iterable[Event], delta: float) -> float:
        return sum(math.inf if isinstance(e, NotPrivate) else e.count / e.noise_multiplier for e in merge(events))

    def affords(self: accountants.RdpFilter, spent: Iterable[Event], event: Event) -> bool:
        return cost([*spent, event], self.delta) <= self.budget_epsilon

    monkeypatch.setattr(accountants, "best_epsilon", cost)
    monkeypatch.setattr(accountants.RdpFilter, "affords", affords)


@pytest.mark.usefixtures("additive")
def test_a_schedule_is_reserved_once_and_then_runs_free(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, Budget(10, 1e-5)) as ledger:  # CHEAP costs .5, DEAR 2
        ledger.pin("a", CHEAP, 12)
        assert ledger.affords([DEAR, DEAR])
        assert not ledger.affords([DEAR, DEAR, CHEAP])
        before = path.read_bytes()
        with pytest.raises(BudgetExceededError, match="by PRV"):
            ledger.pin("b", CHEAP, 9)
        with pytest.raises(BudgetExceededError, match="by PRV"):
            ledger.pin("b", DEAR, 3)
        with pytest.raises(BudgetExceededError):
            ledger.charge(SampledGaussian(0.2, 0.1), "c:0")
        with pytest.raises(BudgetExceededError):
            ledger.check([SampledGaussian(0.2, 0.1)])
        assert path.read_bytes() == before
        ledger.charge(DEAR, "c:0")
        ledger.pin("b", Composition((CHEAP, CHEAP)), 2)
    with Ledger(path) as ledger:
        assert not ledger.affords([CHEAP])
        for n in range(12):
            ledger.charge(CHEAP, f"a:{n}")
            assert not ledger.affords([CHEAP])
        with pytest.raises(QueryRefusedError, match="charge 13"):
            ledger.charge(CHEAP, "a:12")
        with pytest.raises(BudgetExceededError):
            ledger.charge(CHEAP, "c:1")
        ledger.charge(Composition((CHEAP, CHEAP)), "b:0")


@pytest.mark.usefixtures("additive")
def test_torn_lines_stay_within_the_reserved_budget(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    Ledger(path, Budget(10, 1e-5)).close()
    with Ledger(path) as ledger:
        ledger.pin("a", CHEAP, 12)
        ledger.pin("b", DEAR, 2)
    for n in range(30):
        path.write_bytes(path.read_bytes() + b"{")
        with Ledger(path) as ledger:
            spent = sum(e.count / e.noise_multiplier for e in merge([*ledger.events, *ledger.reserved()]))
            assert spent == 10
            assert ledger.remaining("a") == max(11 - n, 0)


@pytest.mark.parametrize("event", [NotPrivate(), Composition((CHEAP, NotPrivate(3)))])
def test_nothing_without_privacy_under_a_budget(event: Event) -> None:
    ledger = Ledger(None, Budget(1e9, 0.5))
    before = ledger.to_bytes()
    for refused in (lambda: ledger.charge(event, "r:0"), lambda: ledger.pin("r", event, 1)):
        with pytest.raises(BudgetExceededError, match="without privacy"):
            refused()
    assert not ledger.affords([event])
    assert ledger.to_bytes() == before


def test_without_a_budget_everything_is_affordable_and_the_bill_says_so() -> None:
    ledger = Ledger(None)
    assert ledger.affords([NotPrivate()])
    ledger.charge(NotPrivate(), "r:0")
    assert ledger.epsilon(1e-5) == math.inf


def test_a_budget_by_the_real_accountants() -> None:
    ledger = Ledger(None, Budget(8, 1e-5))
    event = SampledGaussian(1.0, 0.1)  # 100 of them: 7.0466 by dp_accounting's PLD
    with pytest.raises(BudgetExceededError):
        ledger.pin("r", event, 200)
    ledger.pin("r", event, 100)
    assert not ledger.affords([SampledGaussian(1.0, 0.1, 100)])
    tiny = SampledGaussian(1000.0, 1e-3)
    assert ledger.affords([tiny])  # still a part of a plan made before any message
    for n in range(100):
        ledger.charge(event, f"r:{n}")
    assert 7.0465 < ledger.epsilon(1e-5) < 7.16
    assert ledger.epsilon(1e-5) < ledger.epsilon(1e-5, "rdp")


def test_what_is_chosen_after_a_release_must_pass_the_filter() -> None:
    event, tiny = SampledGaussian(1.0, 0.1), SampledGaussian(1000.0, 1e-3)
    tight, roomy = Ledger(None, Budget(7.2, 1e-5)), Ledger(None, Budget(12, 1e-5))
    for ledger in (tight, roomy):
        ledger.pin("r", event, 100)
        assert ledger.affords([tiny])
        ledger.charge(event, "r:0")
    with pytest.raises(BudgetExceededError, match="by the RDP filter"):
        tight.pin("s", tiny, 1)
    roomy.pin("s", tiny, 1)
    charges = 0
    while roomy.affords([event]):
        roomy.charge(event, f"adaptive:{charges}")
        charges += 1
    with pytest.raises(BudgetExceededError, match="by the RDP filter"):
        roomy.charge(event, f"adaptive:{charges}")
    assert 0 < charges < 200
    everything = [*roomy.events, *roomy.reserved()]
    assert accountants.epsilon(everything, 1e-5, "rdp") <= 12
    assert accountants.RdpFilter(12, 1e-5).affords(everything[1:], everything[0])
    for n in range(1, 100):
        roomy.charge(event, f"r:{n}")  # what was reserved is still there


def test_epsilon_of_an_empty_ledger_is_zero() -> None:
    assert Ledger(None).epsilon(1e-5) == 0
