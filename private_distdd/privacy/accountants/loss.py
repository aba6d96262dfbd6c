"""The privacy loss of one Poisson-subsampled Gaussian release, as a random variable, in both directions.

With P = (1-q) N(0, sigma^2) + q N(1, sigma^2) and Q = N(0, sigma^2), Zhu, Dong and Wang 2022 (theorem 11) show that
(P, Q) dominates the removal of an example and (Q, P) its addition.  The loss is

    remove:  Y = log P/Q (x),  x drawn from P          add:  Y = log Q/P (x),  x drawn from Q,

and log P/Q (x) = log(1 - q + q e^u) with u = (x - 1/2) / sigma^2.  With q = 1 both are N(mu^2/2, mu^2), mu = 1/sigma.

Both classes are what Opacus's `discretize` takes: an object with `cdf` and `mean`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Array = NDArray[np.float64]


class Loss(Protocol):
    """A privacy-loss random variable."""

    def cdf(self, t: Array) -> Array:
        """P(Y <= t), elementwise, for |t| <= 700."""
        ...

    def mean(self) -> float:
        """E[Y], finite."""
        ...


def log_ratio(u: Array, q: float, factor_from: float = 1.0) -> Array:
    """log(1 - q + q e^u), elementwise, for every u and 0 < q <= 1, without overflow.

    From u = `factor_from` on, e^u is factored out.  500 keeps every relative digit, however small q is; 1 leaves an
    absolute error of some 1e-16 u, and is what PRV's published numbers were computed with, to the last bit.
    """
    with np.errstate(divide="ignore"):  # q = 1 at u = -infinity
        low = np.log1p(q * np.expm1(np.minimum(u, factor_from)))
    high = np.maximum(u, factor_from)
    return np.where(u < factor_from, low, high + np.log(q + (1 - q) * np.exp(-high)))


@dataclass(frozen=True)
class _SampledLoss:
    sigma: float
    q: float

    def _expected_log_ratio(self, centre: float) -> float:
        """E[log P/Q (x)] for x from N(centre, sigma^2), by the trapezoid rule, which is spectrally accurate here.

        The integrand is analytic in a strip of half-width pi sigma^2 around the real x axis: a step of sigma^2 / 4,
        or of sigma / 16 for large sigma, leaves an error far below rounding.  (Library quadrature of the cdf loses
        1e-8 a release, and the error of the mean is multiplied by the number of releases.)
        """
        step = min(1 / 16, self.sigma / 4)
        z: Array = step * np.arange(-math.ceil(12 / step), math.ceil(12 / step) + 1, dtype=np.float64)
        weight = np.exp(-z * z / 2)
        values = log_ratio((self.sigma * z + centre - 0.5) / self.sigma**2, self.q)
        return float(np.sum(weight * values) / np.sum(weight))


class RemoveLoss(_SampledLoss):
    """The loss of removing an example: Opacus's `PoissonSubsampledGaussianPRV`, with an exact mean."""

    def cdf(self, t: Array) -> Array:
        """See `Loss.cdf`."""
        from private_distdd.opacus_parts import PoissonSubsampledGaussianPRV  # imports torch: only when asked

        with np.errstate(all="ignore"):  # where e^t - (1 - q) rounds below 0, and the cdf is 0, Opacus says NaN
            cdf = PoissonSubsampledGaussianPRV(self.q, self.sigma).cdf(t)
        return np.asarray(np.nan_to_num(cdf, nan=0.0), dtype=np.float64)

    def mean(self) -> float:
        """See `Loss.mean`."""
        return (1 - self.q) * self._expected_log_ratio(0.0) + self.q * self._expected_log_ratio(1.0)


class AddLoss(_SampledLoss):
    """The loss of adding an example, which neither library composes.

    Y <= t where log P/Q (x) >= -t, that is x >= x_t = sigma^2 log((e^-t - (1-q)) / q) + 1/2; so the cdf is
    Phi(-x_t / sigma), and 1 from t = -log(1-q) on, which no loss exceeds.
    """

    def cdf(self, t: Array) -> Array:
        """See `Loss.cdf`."""
        with np.errstate(over="ignore"):  # a q near nothing: infinite odds mean a cdf of 0, rightly
            odds = (np.expm1(-t) + self.q) / self.q
        reached = odds > 0
        threshold = self.sigma**2 * np.log(np.where(reached, odds, 1.0)) + 0.5
        return np.where(reached, ndtr(-threshold / self.sigma), 1.0)

    def mean(self) -> float:
        """See `Loss.mean`."""
        return -self._expected_log_ratio(0.0)


@dataclass(frozen=True)
class GaussianLoss:
    """The loss of a Gaussian release on every example, the same in both directions: N(mu^2/2, mu^2)."""

    mu: float

    def cdf(self, t: Array) -> Array:
        """See `Loss.cdf`."""
        return np.asarray(ndtr(t / self.mu - self.mu / 2), dtype=np.float64)

    def mean(self) -> float:
        """See `Loss.mean`."""
        return self.mu**2 / 2
