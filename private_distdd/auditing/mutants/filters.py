"""Broken filters of an adaptive budget."""

from __future__ import annotations

from collections.abc import Iterable

from private_distdd.privacy.accountants import RdpFilter
from private_distdd.privacy.events import Event


class _Unsplit(RdpFilter):
    """Gives the whole of delta to each of its orders."""

    def affords(self, spent: Iterable[Event], event: Event) -> bool:
        return _Wider(self.budget_epsilon, self.delta * len(self.orders)).affords(spent, event)


class _Wider(RdpFilter):
    """The orders of a sixth of delta."""

    @property
    def orders(self) -> tuple[float, ...]:
        return RdpFilter(self.budget_epsilon, self.delta / len(super().orders)).orders


class _Late(RdpFilter):
    """Looks at what was spent, and not at what is asked."""

    def affords(self, spent: Iterable[Event], event: Event) -> bool:
        before = list(spent)
        return not before or super().affords(before[:-1], before[-1])


FILTERS: tuple[tuple[str, type[RdpFilter]], ...] = (
    ("the filter's delta is not split over its orders", _Unsplit),
    ("the filter looks at what was spent alone", _Late),
)
"""Names of faults, and the filters that have them."""
