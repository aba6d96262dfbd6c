"""RDP: Renyi differential privacy of the sampled Gaussian, as cached vectors of orders.

Composition adds vectors, so the running bill of a federation costs one multiplication a client and round.  No torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from scipy.special import gammaln

from private_distdd.privacy.accountants import base
from private_distdd.privacy.accountants.base import Bracket
from private_distdd.privacy.accountants.loss import Array, log_ratio
from private_distdd.privacy.events import Event, SampledGaussian

Orders = tuple[float, ...]

# Opacus's orders (1.1 to 10.9, 12 to 63), a few below for epsilons of hundreds, and up to 1024 for small epsilons: with
# orders to 63 no epsilon below 0.1 can be shown at delta 1e-5.
ORDERS: Orders = (
    *(1.01, 1.02, 1.03, 1.05, 1.07),
    *(1 + tenth / 10 for tenth in range(1, 100)),
    *(float(order) for order in range(12, 64)),
    *(float(round(64 * 2 ** (step / 8))) for step in range(33)),
)

ROUNDING = 1e-9  # of a divergence: its parts are exact to some 1e-12, logarithms of a million included


@lru_cache(maxsize=4096)
def renyi_divergences(sigma: float, q: float, orders: Orders = ORDERS) -> Array:
    """Upper bounds on the Renyi divergences of one release, in both directions; read-only `len(orders)`, may hold inf.

    D(P || Q) with P = (1-q) N(0, sigma^2) + q N(1, sigma^2), Q = N(0, sigma^2) is computed; D(Q || P) is never larger
    at any order >= 1 (Mironov, Talwar and Zhang 2019, theorem 5 with section 3.1), so removing and adding are covered.

    Args:
        sigma: noise multiplier, > 0.
        q: sample rate in (0, 1].
        orders: each > 1; those above 11 are whole numbers.

    Formal guarantee: never below the true divergence, rounding included.  What is summed are the terms of the moment
    *minus 1*, all positive, so a small q costs no digits, and nothing is amplified when the result is multiplied by the
    number of releases; the result is then moved up by `ROUNDING`, relatively.
    """
    alpha = np.asarray(orders)
    half_precision = 0.5 / sigma / sigma
    if not math.isfinite(half_precision * float(alpha.max()) ** 2):
        divergence = np.full(len(alpha), np.inf)
    elif q == 1:
        divergence = alpha * half_precision
    else:
        whole = np.asarray([order.is_integer() for order in orders])
        log_moments = np.empty(len(orders))
        log_moments[whole] = [_whole_log_moment(sigma, q, int(order)) for order in alpha[whole]]
        log_moments[~whole] = _fractional_log_moments(sigma, q, alpha[~whole])
        divergence = log_moments / (alpha - 1)
    divergence *= 1 + ROUNDING
    divergence.setflags(write=False)
    return divergence


@lru_cache(maxsize=256)
def _log_binomials(order: int) -> Array:
    """log of (order choose i) for i = 2 ... order."""
    i = np.arange(2.0, order + 1)
    return np.asarray(gammaln(order + 1.0) - gammaln(i + 1) - gammaln(order - i + 1), dtype=np.float64)


def _log_moment(log_terms: Array) -> float:
    """log(1 + sum of e^log_terms), to a relative precision also where the sum is next to nothing."""
    largest = float(np.max(log_terms))
    if largest == -math.inf:
        return 0.0
    return float(np.logaddexp(0.0, largest + math.log(np.sum(np.exp(log_terms - largest)))))


def _whole_log_moment(sigma: float, q: float, order: int) -> float:
    """log E_Q[(P/Q)^order], order >= 2, by the binomial sum of Mironov, Talwar and Zhang 2019, section 3.3.

    The moment is the sum over i of (order choose i) (1-q)^(order-i) q^i e^x_i with x_i = i(i-1) / (2 sigma^2).  Without
    the e^x_i the sum is 1, so the moment less 1 is the same sum with e^x_i - 1, which is 0 for i < 2.
    """
    i = np.arange(2.0, order + 1)
    exponent = i * (i - 1) * (0.5 / sigma / sigma)
    with np.errstate(divide="ignore"):  # sigma so large that an exponent is 0
        log_expm1 = np.where(exponent > 1, exponent, 0.0) + np.log(
            np.where(exponent > 1, -np.expm1(-exponent), np.expm1(np.minimum(exponent, 1.0)))
        )
    return _log_moment(_log_binomials(order) + i * math.log(q) + (order - i) * math.log1p(-q) + log_expm1)


def _fractional_log_moments(sigma: float, q: float, orders: Array) -> Array:
    """log E_Q[(P/Q)^a] for orders a below 11 that are not whole; `len(orders)`.

    By the trapezoid rule: the integrand is analytic within pi sigma^2 of the real axis and decays like a Gaussian of
    width sigma, so steps of min(sigma / 4, sigma^2 / 2) leave a relative error below 1e-11.  (The alternating series
    that libraries use takes 20,000 terms at low orders, and fails where its rounding passes zero.)  Since P/Q has mean
    1 under Q, the moment less 1 is the mean of f(s) = (1 + s)^a - 1 - a s with s = P/Q - 1, and f >= 0 (Bernoulli).
    Where sigma is so small that this takes too many points, the log-moment, convex in the order, is bounded by its
    chord between the whole orders around (Wang, Balle and Kasiviswanathan 2019, corollary 10).
    """
    if not len(orders):
        return np.empty(0)
    if sigma < 0.03:
        whole = np.arange(1, math.ceil(orders.max()) + 1)
        chord = [0.0] + [_whole_log_moment(sigma, q, int(order)) for order in whole[1:]]
        return np.asarray(np.interp(orders, whole, np.asarray(chord)), dtype=np.float64)
    step = min(1 / 4, sigma / 2)
    before_zero = math.ceil(12 / step)
    ends = before_zero + 1 + np.ceil((orders / sigma + 12) / step).astype(int)  # beyond x = order there is nothing
    z: Array = step * np.arange(-before_zero, ends.max() - before_zero, dtype=np.float64)  # x = sigma z
    log_density = -z * z / 2 + math.log(step / math.sqrt(2 * math.pi))
    loss = log_ratio((z - 0.5 / sigma) / sigma, q, factor_from=500.0)  # rising with z
    low, high, large = np.searchsorted(loss, (-0.01, 0.01, 1.0))
    s = np.expm1(loss[:large])
    small = s[low:high]
    log_f = np.empty(len(z))
    moments = []
    with np.errstate(divide="ignore"):  # s = 0
        for a, end in zip(orders, ends, strict=True):  # each stretch of losses by a form that keeps its digits
            series = np.ones(len(small))
            for k in range(9, 2, -1):
                series = 1 + (a - k + 1) / k * small * series
            for part in (slice(low), slice(high, large)):
                log_f[part] = np.log(np.expm1(a * loss[part]) - a * s[part])
            log_f[low:high] = 2 * np.log(np.abs(small)) + np.log(a * (a - 1) / 2 * series)
            tail = loss[large:end]
            log_f[large:end] = a * tail + np.log1p((a - 1) * np.exp(-a * tail) - a * np.exp((1 - a) * tail))
            moments.append(_log_moment(log_density[:end] + log_f[:end]))
    return np.asarray(moments)


def composed(terms: Iterable[SampledGaussian], orders: Orders = ORDERS) -> Array:
    """The Renyi divergences of a whole history: `len(orders)`, never NaN."""
    total = np.zeros(len(orders))
    with np.errstate(over="ignore", invalid="ignore"):
        for term in terms:
            total += term.count * renyi_divergences(term.noise_multiplier, term.sample_rate, orders)
    return np.asarray(np.nan_to_num(total, nan=np.inf, posinf=np.inf), dtype=np.float64)


@lru_cache(maxsize=64)
def conversion(delta: float, orders: Orders = ORDERS) -> Array:
    """What to add to the divergence of each order for an epsilon at `delta`; `len(orders)`, negative at large delta.

    epsilon = divergence + log(1 - 1/a) - (log delta + log a) / (a - 1): Balle et al. 2020, theorem 21, and Canonne,
    Kamath and Steinke 2020, proposition 12, which holds because (1 - e^(epsilon - y))_+ is at most
    e^((a-1)(y - epsilon)) (1 - 1/a)^(a-1) / a for every loss y (and so for negative epsilon too).  Moved up past
    rounding.
    """
    alpha = np.asarray(orders)
    offset: Array = np.log1p(-1 / alpha) - (math.log(delta) + np.log(alpha)) / (alpha - 1)
    offset += 1e-14 * (1 - math.log(delta) / (alpha - 1))
    offset.setflags(write=False)
    return offset


def tail_bound(terms: Iterable[SampledGaussian], probability: float) -> float:
    """A t >= 0 that the composed privacy loss, of either direction, exceeds with at most `probability` (Chernoff)."""
    return max(0.0, float(np.min(composed(terms) - math.log(probability) / (np.asarray(ORDERS) - 1))))


@dataclass(frozen=True)
class RDP:
    """The accountant by Renyi divergences: fast, never too low; 5 to 15 % too high, twofold where q is small.

    Formal guarantee: that of `Accountant`.  The best order is chosen after the fact, which is sound for a schedule
    fixed beforehand; where sigma, the rate or the stopping adapts to earlier messages, `RdpFilter` guards the budget.
    """

    name: ClassVar[str] = "rdp"

    def bracket(self, events: Iterable[Event], delta: float) -> Bracket:
        """See `Accountant.bracket`.  `lower` is 0: Renyi divergences bound epsilon from above only."""
        delta = base.check_delta(delta)
        terms = base.canonical(events)
        if terms is None:
            return base.NO_GUARANTEE
        if not terms:
            return base.NOTHING_RELEASED
        upper = max(0.0, float(np.min(composed(terms) + conversion(delta))))
        return Bracket(0.0, upper, upper)

    def delta(self, events: Iterable[Event], epsilon: float) -> float:
        """See `Accountant.delta`."""
        epsilon = base.check_epsilon(epsilon)
        terms = base.canonical(events)
        if terms is None:
            return 1.0
        if not terms:
            return 0.0
        alpha = np.asarray(ORDERS)
        log_delta = (alpha - 1) * (composed(terms) + np.log1p(-1 / alpha) - epsilon) - np.log(alpha)
        return math.exp(min(0.0, float(np.min(log_delta))))
