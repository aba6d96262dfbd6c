"""The trade-off curve of a claim: the smallest FNR that a test with a given FPR can have."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from private_distdd.errors import ConfigurationError
from private_distdd.privacy.accountants import PRV, best_epsilon, epsilon_delta_curve
from private_distdd.privacy.accountants.gdp import gaussian_mu
from private_distdd.privacy.accountants.prv import MAX_LOSS
from private_distdd.privacy.events import Event, NotPrivate, SampledGaussian, merge

_CURVE_POINTS = 300


class TradeoffCurve:
    """f(a): the smallest FNR that a test with FPR a can have against the claimed events.

    Gaussian releases of every example (q = 1): f(a) = Phi(Phi^-1(1 - a) - mu).  Else, from the accountant's upper
    bounds delta(epsilon) on a grid, f(a) = max over epsilon of {0, 1 - delta(epsilon) - e^epsilon a,
    e^-epsilon (1 - delta(epsilon) - a)}: every line is a valid bound, so a coarse grid only weakens the test.

    Args:
        events: what was charged.

    Raises:
        ConfigurationError: `events` are none, or hold a release without privacy: that claims nothing.

    Source: Dong, Roth and Su 2019, proposition 2.12 and theorem 2.7.
    """

    def __init__(self, events: Iterable[Event]) -> None:
        self.events = merge(events)
        if not self.events or any(isinstance(event, NotPrivate) for event in self.events):
            raise ConfigurationError(
                f"events = {self.events}", "releases with noise", "A claim of nothing cannot be tested."
            )
        terms = [event for event in self.events if isinstance(event, SampledGaussian)]
        self.mu: float | None = None
        if all(term.sample_rate == 1 for term in terms):
            self.mu = gaussian_mu(terms)
            return
        largest = min(best_epsilon(terms, 1e-9) + 1, MAX_LOSS)
        grid = np.linspace(0, largest, _CURVE_POINTS)
        curve = epsilon_delta_curve(terms, [float(e) for e in grid], PRV(cross_check=False))
        self._epsilons, self._deltas = np.array(curve).T

    def __call__(self, false_positive: ArrayLike) -> NDArray[np.float64]:
        """f at each of `false_positive`, in [0, 1]; same shape."""
        a = np.asarray(false_positive, dtype=np.float64)
        if self.mu is not None:
            return np.asarray(special.ndtr(-special.ndtri(np.clip(a, 0.0, 1.0)) - self.mu), dtype=np.float64)
        rest = 1 - self._deltas
        lines = np.maximum(
            rest - np.exp(self._epsilons) * a[..., None], np.exp(-self._epsilons) * (rest - a[..., None])
        )
        return np.asarray(np.maximum(lines.max(axis=-1), 0.0), dtype=np.float64)

    def ceiling(self, false_positive: float) -> float:
        """The largest TPR that a test with this FPR can have: 1 - f(FPR)."""
        return 1.0 - float(self(false_positive))

    @property
    def advantage(self) -> float:
        """The largest TPR - FPR that any test can have, in [0, 1]: delta at epsilon = 0, the total variation."""
        return float(self._deltas[0]) if self.mu is None else float(special.erf(self.mu / math.sqrt(8)))

    def rejects(self, false_positive: float, false_negative: float) -> bool:
        """FNR_U < f(FPR_U), or FPR_U < f(FNR_U): no mechanism within the claim allows a test with such errors."""
        return bool(false_negative < self(false_positive) or false_positive < self(false_negative))

    def epsilon(self, delta: float) -> float:
        """The accountant's upper bound for the claim."""
        return best_epsilon(self.events, delta)
