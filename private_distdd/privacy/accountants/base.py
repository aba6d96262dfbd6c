"""What the accountants share: the bracket they answer with, their protocol, and the checks before any numerics."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from private_distdd.errors import ConfigurationError
from private_distdd.privacy import events as ev
from private_distdd.validate import is_real


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


MAX_DISTINCT = 128  # different mechanisms that are told apart: what bounds an accountant's work

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

    A history of more than `MAX_DISTINCT` different mechanisms is priced as the dearer one of `coarsened`.

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
    return coarsened(sampled, MAX_DISTINCT) if len(sampled) == len(merged) else None


def coarsened(terms: tuple[ev.SampledGaussian, ...], most: int) -> tuple[ev.SampledGaussian, ...]:
    """A history of at most `most` different mechanisms that costs at least as much; `terms` where it has no more.

    Noise multipliers are lowered and sample rates raised to geometric ladders, from the smallest noise multiplier up
    and from the largest sample rate down: the finest of those with rungs 2^(1/1024), 2^(1/512), ... apart that do.

    Formal guarantee: each release is replaced by one that dominates it, in both directions.  A smaller sigma does,
    because the larger one is it with more noise added afterwards.  A larger rate does, because with
    P_q = (1-q) Q + q N(1, sigma^2) and q <= r, P_q is a mixture of Q and P_r, and the hockey-stick divergence from Q,
    or of Q from it, is convex, and least at Q itself.
    """
    least = min((term.noise_multiplier for term in terms), default=0.0)
    highest = max((term.sample_rate for term in terms), default=0.0)
    rungs = 1024.0
    coarser = terms
    while len(coarser) > most:
        counts: dict[tuple[float, float], int] = {}
        for term in coarser:
            above = math.floor(rungs * (math.log2(term.noise_multiplier) - math.log2(least))) / rungs
            below = math.floor(rungs * (math.log2(highest) - math.log2(term.sample_rate))) / rungs
            sigma, rate = least, highest  # exactly, at either end; elsewhere min and max undo the ladder's rounding
            if above:
                sigma = max(least, min(term.noise_multiplier, 2.0 ** min(1023.0, math.log2(least) + above)))
            if below:
                rate = min(highest, max(term.sample_rate, 2.0 ** (math.log2(highest) - below)))
            counts[sigma, rate] = counts.get((sigma, rate), 0) + term.count
        coarser = tuple(ev.SampledGaussian(sigma, rate, count) for (sigma, rate), count in sorted(counts.items()))
        rungs /= 2
    return coarser


def check_delta(delta: object) -> float:
    """`delta` as a float, if it is a number strictly between 0 and 1."""
    if not is_real(delta) or not 0 < delta < 1:
        raise ConfigurationError(
            f"delta = {delta!r}", "0 < delta < 1", "Choose it well below 1 / (number of examples), 1e-5 for example."
        )
    return float(delta)


def check_epsilon(epsilon: object) -> float:
    """`epsilon` as a float, if it is a finite number of at least 0."""
    if not is_real(epsilon) or not 0 <= epsilon < math.inf:
        raise ConfigurationError(f"epsilon = {epsilon!r}", "a finite number >= 0", "Pass one number.")
    return float(epsilon)


def check_positive(name: str, value: object) -> float:
    """`value` as a float, if it is a finite number above 0."""
    if not is_real(value) or not 0 < value < math.inf:
        raise ConfigurationError(f"{name} = {value!r}", "a finite number > 0", "Pass one number.")
    return float(value)
