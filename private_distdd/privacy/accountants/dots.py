"""Connected dots: an upper bound on epsilon that holds for a grid of any step, where PRV's would be too fine.

PRV proves how far a grid may move the loss, which takes steps of eps_error / sqrt(releases).  Here every loss is moved
so that the result is *dearer* for certain, whatever the step; only tightness depends on it, and in second order.  So
2^18 points serve histories for which PRV would need 2^30, in some 0.05 s.

Sources: connecting the dots: Doroshenko, Ghazi, Kamath, Kumar and Manurangsi 2022; dominating pairs: Zhu, Dong and
Wang 2022.  The two stages, which make the cost independent of q, sigma and the step, are ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from private_distdd.privacy.accountants.base import coarsened
from private_distdd.privacy.accountants.loss import Array, log_ratio
from private_distdd.privacy.accountants.profile import Profile
from private_distdd.privacy.events import SampledGaussian

Terms = tuple[SampledGaussian, ...]

POINTS = 2**18
MOST_TERMS = 32  # different mechanisms told apart; a history of more is made coarser, and dearer
REACH = 12.0  # standard deviations of noise that are looked at
CELL = 0.01  # their width, in standard deviations: moves the variance of a loss by a relative CELL^2 / 6
LEAST_NOISE, MOST_NOISE = 0.02, 1e100  # below, there would be too many cells; above, squares overflow
EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class _Loss:
    """`count` independent losses with the values `values` (neither equally spaced nor distinct)."""

    values: Array
    mass: Array
    count: int


@dataclass(frozen=True, eq=False)
class _Bound:
    """A profile that lies above the true one, except for `slack` in delta."""

    profile: Profile
    slack: float

    def epsilon_at(self, delta: float) -> float:
        """An upper bound on epsilon at `delta`; infinite where the slack leaves nothing of it."""
        left = delta - self.slack
        return max(0.0, float(self.profile.epsilon_at(left))) if left > 0 else math.inf

    def delta_at(self, epsilon: float) -> float:
        """An upper bound on delta at `epsilon`."""
        return min(1.0, self.profile.delta_at(epsilon) + self.slack)


def upper_epsilon(terms: Terms, delta: float) -> float:
    """An upper bound on epsilon at `delta`, in both directions; infinite where this way has none to offer.

    Formal guarantee: that of `Accountant`, up to float64 rounding (an estimate of which is added to delta).

    Proof.  A pair (P', Q') dominates (P, Q) if E_g(P', Q') >= E_g(P, Q) for all g >= 0, where E_g is the hockey-stick
    divergence, the integral of (dP - g dQ)_+.  It then does so with the roles exchanged, because
    E_g(Q, P) = 1 - g + g E_(1/g)(P, Q), and compositions of dominating pairs dominate (Zhu, Dong and Wang 2022,
    theorem 10).  E_g is the mean under Q of a convex function of the likelihood ratio dP/dQ.  So an outcome may be
    *split* into two, one with a smaller and one with a larger ratio, if the sum of their Q-masses and of their P-masses
    stays: by Jensen's inequality that raises every E_g.  This is done twice.

    1. The line of outcomes x is cut into cells.  The ratio rises with x, so each x of a cell is split between the ends
       of the cell (`_atoms`).  What lies beyond the last ends, at most 2 Phi(-12) of each mass, is given away: it is
       charged to delta in full, once a release.
    2. Each end, with its loss y, is split between the points of the grid next to y (`_on_grid`).

    The sum of losses on the grid is computed modulo points * step, on a window with top t.  A sum above t has at most
    the probability `tail`, by Chernoff's bound for these very losses, and that is charged to delta; a sum below the
    window reappears higher up, where it costs more.
    """
    return max((bound.epsilon_at(delta) for bound in _bounds(terms, delta / 1000)), default=math.inf)


def upper_delta(terms: Terms, epsilon: float) -> float:
    """An upper bound on delta at `epsilon`, in both directions; not below 1e-12.  Guarantee: see `upper_epsilon`."""
    return max((bound.delta_at(epsilon) for bound in _bounds(terms, 1e-12)), default=1.0)


def chance_of_any_coin(terms: Terms) -> float:
    """The probability that an example enters any batch: delta is at most this, at every epsilon.

    Proof: with the other probability all messages are distributed as if the example were not there.  So this bounds
    their total variation distance, which is delta at epsilon 0, and the same in both directions.
    """
    if any(term.sample_rate == 1 for term in terms):
        return 1.0
    none = sum(term.count * math.log1p(-term.sample_rate) for term in terms)
    return -math.expm1(none) * (1 + 1e-9)


@lru_cache(maxsize=2)
def _bounds(terms: Terms, tail: float) -> tuple[_Bound, ...]:
    """The bounds of both directions; none outside the range of this way."""
    terms = coarsened(terms, MOST_TERMS)
    if not tail > 0 or not all(LEAST_NOISE <= term.noise_multiplier <= MOST_NOISE for term in terms):
        return ()
    remove, add = [], []
    for term in terms:
        loss, p, q = _atoms(term.noise_multiplier, term.sample_rate)
        remove.append(_Loss(loss, p, term.count))
        add.append(_Loss(-loss, q, term.count))
    found = [_composed(losses, tail) for losses in (remove, add)]
    return tuple(bound for bound in found if bound) if all(found) else ()


def _atoms(sigma: float, q: float) -> tuple[Array, Array, Array]:
    """One release as a pair of discrete measures that dominates it: losses log P/Q, and the masses of P and of Q.

    With z = x / sigma, the likelihood ratio is 1 - q + q e^(u(z)), u = (z - 1/(2 sigma)) / sigma.  Of an x between the
    ends l < r of a cell, the share that goes to r, of Q's mass, is therefore (e^u - e^u_l) / (e^u_r - e^u_l), for every
    q; of the mass of N(1, sigma^2), which is e^u times that of Q, it is that share times e^(u_r - u).  The integrals
    over a cell, of smooth positive functions, are those of Gauss and Legendre with four points: exact to rounding.
    """
    cells = math.ceil((2 * REACH + 1 / sigma) / CELL)
    ends = CELL * np.arange(cells + 1.0) - REACH
    root, weight = np.polynomial.legendre.leggauss(4)
    inner = (root + 1) / 2 * CELL
    weight = weight / 2 * CELL / math.sqrt(2 * math.pi)
    share = np.expm1(inner / sigma) / np.expm1(CELL / sigma)
    z = ends[:-1, np.newaxis] + inner
    density, shifted = np.exp(-(z**2) / 2), np.exp(-((z - 1 / sigma) ** 2) / 2)
    mass, shifted_mass = np.zeros(cells + 1), np.zeros(cells + 1)
    mass[:-1] += density @ (weight * (1 - share))
    mass[1:] += density @ (weight * share)
    shifted_mass[:-1] += shifted @ (weight * (1 - share) * np.exp(-inner / sigma))
    shifted_mass[1:] += shifted @ (weight * share * np.exp((CELL - inner) / sigma))
    loss = log_ratio((ends - 0.5 / sigma) / sigma, q, factor_from=500.0)
    return loss, (1 - q) * mass + q * shifted_mass, mass


def _on_grid(loss: _Loss, step: float) -> tuple[NDArray[np.int64], Array]:
    """The values as multiples of `step`, each split so that its mass, and e^-loss times its mass, stay; and masses."""
    below = np.floor(loss.values / step)
    share = np.clip(np.expm1(below * step - loss.values) / math.expm1(-step), 0.0, 1.0)
    index = below.astype(np.int64)
    return np.concatenate([index, index + 1]), np.concatenate([loss.mass * (1 - share), loss.mass * share])


def _log_moments(values: Array, mass: Array, exponents: Array) -> Array:
    """Upper bounds on log E[e^(s Y)] for each s of `exponents`: exact from log(1/2) on, infinite where too large."""
    moments = np.asarray([np.sum(mass * np.expm1(s * values)) for s in exponents])
    bounded = np.maximum(np.nan_to_num(moments, nan=math.inf, posinf=math.inf), -0.5)
    return np.asarray(np.log1p(bounded), dtype=np.float64)


def _composed(losses: list[_Loss], tail: float) -> _Bound | None:
    """The bound for the sum of all `losses`, which is above the window with at most the probability `tail`."""
    from scipy.fft import irfft, rfft

    with np.errstate(all="ignore"):
        squares = sum(y.count * float(y.mass @ y.values**2) for y in losses)
        if not 0 < squares < math.inf:
            return None
        exponents: Array = math.sqrt(-2 * math.log(tail) / squares) * 2.0 ** np.arange(-12.0, 13.0)

        def top(sign: int, parts: Iterable[tuple[Array, Array, int]]) -> float:
            """What `sign` times the sum of parts exceeds with at most the probability `tail` (Chernoff)."""
            log_moments = sum((n * _log_moments(sign * y, mass, exponents) for y, mass, n in parts), np.zeros(1))
            return float(np.min((log_moments - math.log(tail)) / exponents))

        upper, lower = (top(sign, ((y.values, y.mass, y.count) for y in losses)) for sign in (1, -1))
        step = 1.05 * (upper + lower) / POINTS  # the grid widens the sum a little
        if not 0 < step < math.inf or max(float(np.max(np.abs(y.values))) for y in losses) / step > 2**52:
            return None
        log_transform: NDArray[np.complex128] = np.zeros(POINTS // 2 + 1, dtype=np.complex128)
        moves = 0.0
        gridded = [(*_on_grid(loss, step), loss.count) for loss in losses]
        for index, mass, count in gridded:
            # The transform less 1 comes from the losses other than 0: precise however rare they are.
            moving = index != 0
            rest = float(np.sum(mass[moving]))
            change = rfft(np.bincount(index[moving] % POINTS, weights=mass[moving], minlength=POINTS)) - rest
            real, imaginary = change.real, change.imag
            size = np.log1p(np.maximum(2 * real + real**2 + imaginary**2, -1.0)) / 2
            log_transform += count * (size + 1j * np.arctan2(imaginary, 1 + real))
            moves += count * rest
        last = math.ceil(top(1, ((step * index.astype(float), mass, count) for index, mass, count in gridded)) / step)
        transform = np.nan_to_num(np.exp(log_transform))  # NaN: 0 times an infinite phase
    first = last - POINTS + 1
    mass = np.roll(np.maximum(irfft(transform, n=POINTS), 0.0), -(first % POINTS))
    profile = Profile.of_mass(mass, first * step, step, EPSILON * math.log2(POINTS) * (1 + moves))
    given_away = 2 * float(ndtr(-REACH)) * sum(loss.count for loss in losses)
    return _Bound(profile, tail + given_away + profile.rounding)
