"""GDP: the exact closed form for releases that take every example (sample_rate 1).

T Gaussian releases with noise multipliers sigma_t are, together, exactly as private as one Gaussian release with
mu = sqrt(sum 1 / sigma_t^2) (Dong, Roth and Su 2019, corollary 3.3), and one Gaussian release has (Balle and Wang
2018, theorem 8)

    delta(epsilon) = Phi(mu/2 - epsilon/mu) - e^epsilon Phi(-mu/2 - epsilon/mu).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from scipy.optimize import brentq
from scipy.special import erfcx, log_ndtr, ndtr

from private_distdd.errors import ConfigurationError
from private_distdd.privacy.accountants import base
from private_distdd.privacy.accountants.base import Bracket
from private_distdd.privacy.events import Event, SampledGaussian

RELATIVE_ERROR = 1e-9  # of epsilon and delta: root finding and rounding; each bound is moved out by it


def gaussian_mu(terms: Iterable[SampledGaussian]) -> float:
    """mu = sqrt(sum of count / sigma^2) of Gaussian releases; may be infinite, where sigma is next to nothing."""
    return math.hypot(*(math.sqrt(term.count) / term.noise_multiplier for term in terms))


def log_delta(mu: float, y: float) -> float:
    """log delta at epsilon = mu * (y + mu/2), that is at y = epsilon/mu - mu/2; exact where differences would cancel.

    With the Mills ratio m(y) = Phi(-y) / phi(y), delta is phi(y) (m(y) - m(y + mu)): e^epsilon never appears.
    """
    log_phi = -y * y / 2 - math.log(2 * math.pi) / 2
    if mu < 1e-5:  # the difference would cancel: m' at the middle, m'(z) = z m(z) - 1, within mu^2 of it
        middle = y + mu / 2
        gap = mu * (1 - middle * _mills(middle))
    elif y >= 0:
        gap = _mills(y) - _mills(y + mu)
    else:  # m(y) may overflow
        share = math.exp(log_phi) * _mills(y + mu) / float(ndtr(-y))
        return float(log_ndtr(-y)) + math.log1p(-share)
    return log_phi + math.log(gap) if gap > 0 else -math.inf


def _mills(x: float) -> float:
    """Phi(-x) / phi(x) for x >= -1e-5."""
    return math.sqrt(math.pi / 2) * float(erfcx(x / math.sqrt(2)))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The smallest epsilon >= 0 at which a Gaussian release of parameter `mu` is (epsilon, delta)-private."""
    if math.isinf(mu * mu):
        return math.inf
    target = math.log(delta)
    if log_delta(mu, -mu / 2) <= target:
        return 0.0
    # The loss is N(mu^2/2, mu^2), so P(loss > epsilon) = Phi(-y) <= exp(-y^2/2): past this y, delta is below target.
    far = math.sqrt(-2 * target)
    y = brentq(lambda point: log_delta(mu, point) - target, -mu / 2, far, xtol=1e-14, rtol=1e-14)
    return float(mu * (y + mu / 2))


@dataclass(frozen=True)
class GDP:
    """The accountant of Gaussian releases: exact, and so both the lower and the upper bound.

    Formal guarantee: that of `Accountant`; nothing is lost, in either direction of the relation (they are equal).

    Raises:
        ConfigurationError: an event has a sample_rate below 1.  The central-limit formulas for sampled releases are
            approximations that may lie below the truth, and no bill is made of those.
    """

    name: ClassVar[str] = "gdp"

    def bracket(self, events: Iterable[Event], delta: float) -> Bracket:
        """See `Accountant.bracket`.  Exact within a relative 1e-9."""
        delta = base.check_delta(delta)
        mu = self._mu(events)
        if mu is None:
            return base.NO_GUARANTEE
        epsilon = gaussian_epsilon(mu, delta) if mu > 0 else 0.0
        return Bracket(epsilon * (1 - RELATIVE_ERROR), epsilon, epsilon * (1 + RELATIVE_ERROR))

    def delta(self, events: Iterable[Event], epsilon: float) -> float:
        """See `Accountant.delta`."""
        epsilon = base.check_epsilon(epsilon)
        mu = self._mu(events)
        if mu is None or mu == math.inf:
            return 1.0
        if mu == 0:
            return 0.0
        return min(1.0, math.exp(log_delta(mu, epsilon / mu - mu / 2)) * (1 + RELATIVE_ERROR))

    @staticmethod
    def _mu(events: Iterable[Event]) -> float | None:
        terms = base.canonical(events)
        if terms is None:
            return None
        if any(term.sample_rate < 1 for term in terms):
            raise ConfigurationError(
                'accountant = "gdp" for events with sample_rate < 1',
                "events with sample_rate = 1",
                'Use "prv" or "rdp".',
            )
        return gaussian_mu(terms)
