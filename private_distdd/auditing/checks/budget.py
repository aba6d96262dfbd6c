"""The filter of an adaptive budget, against the bound that its proof allows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np
from scipy import special

from private_distdd.auditing.checks.outcome import certain
from private_distdd.auditing.report.records import AuditRecord
from private_distdd.privacy.accountants import RdpFilter
from private_distdd.privacy.events import Event, SampledGaussian

_BUDGETS = ((8.0, 1e-5), (1.0, 1e-5), (0.3, 1e-8), (3.0, 1e-6))
_RELEASES = ((30.0, 1.0), (2.0, 0.02), (6.0, 0.3))  # sigma and q, of which each budget affords some to many
_FIRST = SampledGaussian(50.0, 1.0)
_MOST = 1 << 24
_NUMERICS = 1e-9


class Filter(Protocol):
    """What is audited: see `RdpFilter`."""

    @property
    def orders(self) -> tuple[float, ...]:
        """The orders that it watches."""
        ...

    def affords(self, spent: Iterable[Event], event: Event) -> bool:
        """May `event` follow `spent`?"""
        ...


def divergence(sigma: float, q: float, order: float) -> float:
    """The Renyi divergence of one release by the trapezoid rule, which shares no code with the accountants."""
    step = sigma / 40
    x = np.arange(-12 * sigma, order + 12 * sigma, step)
    density = -(x**2) / (2 * sigma**2) - math.log(sigma * math.sqrt(2 * math.pi))
    gain = (2 * x - 1) / (2 * sigma**2)
    loss = gain if q == 1 else np.logaddexp(math.log1p(-q), math.log(q) + gain)
    return float(special.logsumexp(density + order * loss) + math.log(step)) / (order - 1)


def allowed(epsilon: float, delta: float, orders: Sequence[float], measure: SampledGaussian) -> int:
    """How many of `release` the proof of `RdpFilter` allows after `_FIRST`: each order has its share of delta."""
    counts = []
    for order in orders:
        share = delta / len(orders)
        rest = epsilon - math.log1p(-1 / order) + (math.log(share) + math.log(order)) / (order - 1)
        rest -= divergence(_FIRST.noise_multiplier, _FIRST.sample_rate, order)
        counts.append(rest / divergence(measure.noise_multiplier, measure.sample_rate, order))
    return max(0, math.floor(max(counts) * (1 + _NUMERICS)))


def filter_check(make: Callable[[float, float], Filter] = RdpFilter) -> AuditRecord:
    """A filter affords no more than its proof allows, at any of four budgets and of three releases.

    An adversary who chooses each release after having seen the others may exploit whichever of the watched orders is
    best at the end: so each order has its share of delta only (Feldman and Zrnic 2021).  The largest number of equal
    releases that the filter affords after a first one is found by bisection, and compared with the bound of that proof,
    with divergences by quadrature; the watched orders must not move with what was spent.

    Args:
        make: from (epsilon, delta) of the budget to the filter.
    """
    started, findings, compared = time.perf_counter(), list[str](), 0
    for epsilon, delta in _BUDGETS:
        watch = make(epsilon, delta)
        orders = watch.orders
        for sigma, q in _RELEASES:
            measure = SampledGaussian(sigma, q)
            afforded, refused = 0, _MOST
            while refused - afforded > 1:
                count = (afforded + refused) // 2
                spent = [_FIRST] if count == 1 else [_FIRST, SampledGaussian(sigma, q, count - 1)]
                if watch.affords(spent, measure):
                    afforded = count
                else:
                    refused = count
            compared += 1
            most = allowed(epsilon, delta, orders, measure)
            if afforded > most:
                findings.append(f"({epsilon:g}, {delta:g}): {afforded} of {measure} after {_FIRST}, proved: {most}")
        if watch.orders != orders or make(epsilon, delta).orders != orders:
            findings.append(f"({epsilon:g}, {delta:g}): the watched orders move with what is spent")
    return certain(
        "filter_check",
        started,
        findings,
        claim="an adaptive schedule that the filter lets pass keeps its budget",
        statistic="releases afforded, against the bound of the filter's proof",
        trials=compared,
        adversary="chooses each release after the messages before it",
        assumptions="more than the proof allows need not be an attack that is known",
    )
