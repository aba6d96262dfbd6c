"""Accountants one can do sums with."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest

from private_distdd.privacy import accountants
from private_distdd.privacy.events import Event, NotPrivate, merge


@pytest.fixture
def additive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accountants one can do sums with: a release costs 1 / sigma, whatever delta."""

    def cost(events: Iterable[Event], delta: float) -> float:
        return sum(math.inf if isinstance(e, NotPrivate) else e.count / e.noise_multiplier for e in merge(events))

    def affords(self: accountants.RdpFilter, spent: Iterable[Event], event: Event) -> bool:
        return cost([*spent, event], self.delta) <= self.budget_epsilon

    monkeypatch.setattr(accountants, "best_epsilon", cost)
    monkeypatch.setattr(accountants.RdpFilter, "affords", affords)
