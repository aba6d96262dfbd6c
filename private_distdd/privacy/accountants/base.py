"""What the accountants share: the bracket they answer with, their protocol, and the checks before any numerics."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from private_distdd.errors import ConfigurationError
from private_distdd.privacy import events as ev


@dataclass(frozen=True)
class Bracket:
    """What an accountant knows about the smallest epsilon that a history satisfies at one delta.

    Args:
        lower: the true epsilon is at least this (0 from an accountant that only bounds from above).
        estimate: the accountant's best guess; for display, never for a claim.
        upper: the true epsilon is at most this: the number to claim.
        note: what a reader of the number should know; "" if there is nothing to say.
    """

    lower: float
    estimate: float
    upper: float
    note: str = ""


NOTHING_RELEASED = Bracket(0.0, 0.0, 0.0)
NO_GUARANTEE = Bracket(math.inf, math.inf, math.inf, "at least one release carries no guarantee")


class Accountant(Protocol):
    """Turns a history of events into (epsilon, delta), for the unit and relation that the events name.

    Formal guarantee: whatever made the releases that the events describe is (bracket(events, delta).upper, delta)-
    and (epsilon, delta(events, epsilon))-differentially private, in both directions of add-or-remove-one, for a
    schedule fixed before the first release.
    """

    name: ClassVar[str]

    def bracket(self, events: Iterable[ev.Event], delta: float) -> Bracket:
        """Epsilon at `delta` in (0, 1).  No events cost 0; a `NotPrivate` event costs infinity."""
        ...

    def delta(self, events: Iterable[ev.Event], epsilon: float) -> float:
        """An upper bound, in [0, 1], on delta at a finite `epsilon` >= 0."""
        ...


def canonical(events: Iterable[ev.Event]) -> tuple[ev.SampledGaussian, ...] | None:
    """The history merged and sorted, the key of every cache; None when some release carries no guarantee.

    Raises:
        ConfigurationError: `events` is not an iterable of events (an unknown object must not count as free).
    """
    history = list(events) if isinstance(events, Iterable) else None
    if history is None or not all(isinstance(event, ev.Event) for event in history):
        raise ConfigurationError(
            f"events = {events!r}",
            "an iterable of SampledGaussian, NotPrivate or Composition",
            "Pass a list of events.",
        )
    merged = ev.merge(history)
    sampled = tuple(event for event in merged if isinstance(event, ev.SampledGaussian))
    return sampled if len(sampled) == len(merged) else None


def check_delta(delta: object) -> float:
    """`delta` as a float, if it is a number strictly between 0 and 1."""
    if isinstance(delta, bool) or not isinstance(delta, int | float) or not 0 < delta < 1:
        raise ConfigurationError(
            f"delta = {delta!r}", "0 < delta < 1", "Choose it well below 1 / (number of examples), 1e-5 for example."
        )
    return float(delta)


def check_epsilon(epsilon: object) -> float:
    """`epsilon` as a float, if it is a finite number of at least 0."""
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 0 <= epsilon < math.inf:
        raise ConfigurationError(f"epsilon = {epsilon!r}", "a finite number >= 0", "Pass one number.")
    return float(epsilon)


def check_positive(name: str, value: object) -> float:
    """`value` as a float, if it is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConfigurationError(f"{name} = {value!r}", "a finite number > 0", "Pass one number.")
    return float(value)


def as_float(count: int) -> float:
    """A count of releases as a float; infinity where it has no float (a history nobody can make, priced as such)."""
    try:
        return float(count)
    except OverflowError:
        return math.inf
