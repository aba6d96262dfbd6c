"""From scores of two worlds to bounds: Clopper-Pearson, lower bounds on epsilon, and rejection by a trade-off curve.

Scores come in two samples: `inside` from runs with the canary, `outside` from runs without it; larger means "inside".
A test guesses "inside" where the score is above a threshold: FPR is its error outside, FNR its error inside.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

from private_distdd.errors import ConfigurationError, DataError
from private_distdd.privacy.accountants import PRV, best_epsilon, epsilon_delta_curve
from private_distdd.privacy.accountants.gdp import gaussian_epsilon
from private_distdd.privacy.events import Event, NotPrivate, SampledGaussian, merge
from private_distdd.validate import require_number

Scores = NDArray[np.float64]

FEWEST = 20  # scores a side, below which no audit is attempted
RARE = 0.9  # of alpha, for the error that a bound divides by: it is the one counted least often
_CURVE_POINTS = 300


def check_scores(inside: ArrayLike, outside: ArrayLike) -> tuple[Scores, Scores]:
    """Both samples as float64 vectors.

    Raises:
        DataError: a sample is not a vector, has fewer than 20 scores or one that is not finite; or all are equal.
    """
    samples = []
    for name, given in (("inside", inside), ("outside", outside)):
        scores = np.asarray(given, dtype=np.float64)
        if scores.ndim != 1 or len(scores) < FEWEST:
            raise DataError(
                f"{name} scores of shape {scores.shape}", f"a vector of {FEWEST} or more", "Run more trials."
            )
        if not np.isfinite(scores).all():
            raise DataError(
                f"{name} scores with {int((~np.isfinite(scores)).sum())} values that are not finite",
                "finite scores",
                "A message that is not finite is a fault of its own: look for it with replay_sensitivity.",
            )
        samples.append(scores)
    if np.ptp(np.concatenate(samples)) == 0:
        raise DataError(
            "scores that are all equal", "scores that vary", "The score does not see the canary or the noise."
        )
    return samples[0], samples[1]


def clopper_pearson_upper(errors: int, trials: int, alpha: float) -> float:
    """U(k, n, a) = BetaInv(1 - a; k + 1, n - k): above the error rate with probability at least 1 - a.

    Args:
        errors: k in 0 ... n.
        trials: n >= 1.
        alpha: in (0, 1).

    Raises:
        ConfigurationError: an argument is outside its range.

    Source: Clopper and Pearson 1934.
    """
    require_number("alpha", alpha, 0, 1, "0 < alpha < 1", "0.05 for reports, 1e-4 for gates.")
    if not 0 <= errors <= trials or trials < 1:
        raise ConfigurationError(
            f"{errors} errors in {trials} trials", "0 <= errors <= trials, trials >= 1", "Count again."
        )
    return 1.0 if errors == trials else float(special.betaincinv(errors + 1, trials - errors, 1 - alpha))


@dataclass(frozen=True)
class Errors:
    """Upper bounds on both errors of one test, which hold together with probability at least 1 - alpha."""

    false_positive: float
    false_negative: float

    def epsilon(self, delta: float) -> float:
        """max(0, ln((1 - FNR - delta) / FPR)), or the same with the errors exchanged where that is larger.

        Every (epsilon, delta)-DP mechanism has FPR e^epsilon + FNR >= 1 - delta and FNR e^epsilon + FPR >= 1 - delta
        (Kairouz, Oh and Viswanath 2015).
        """
        pairs = (
            (1 - self.false_negative - delta, self.false_positive),
            (1 - self.false_positive - delta, self.false_negative),
        )
        return max([0.0, *(math.log(top / bottom) for top, bottom in pairs if top > 0)])


def errors_at(inside: Scores, outside: Scores, threshold: float, alpha: float, share: float = 0.5) -> Errors:
    """Clopper-Pearson bounds on the errors of "inside if score > threshold": FPR's takes `share` of alpha."""
    return Errors(
        clopper_pearson_upper(int((outside > threshold).sum()), len(outside), alpha * share),
        clopper_pearson_upper(int((inside <= threshold).sum()), len(inside), alpha * (1 - share)),
    )


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
            self.mu = math.sqrt(sum(term.count / term.noise_multiplier**2 for term in terms))
            return
        largest = best_epsilon(terms, 1e-9) + 1
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

    def rejects(self, errors: Errors) -> bool:
        """FNR_U < f(FPR_U), or FPR_U < f(FNR_U): no mechanism within the claim allows such a test."""
        return bool(
            errors.false_negative < self(errors.false_positive) or errors.false_positive < self(errors.false_negative)
        )

    def epsilon(self, delta: float) -> float:
        """The accountant's upper bound for the claim."""
        return best_epsilon(self.events, delta)


def thresholds(inside: Scores, outside: Scores, most: int = 400) -> NDArray[np.float64]:
    """Candidate thresholds: quantiles of both samples, dense in the tails, where the best ones lie."""
    logs = np.logspace(math.log10(1 / max(len(inside), len(outside))), math.log10(0.5), most // 4)
    levels = np.concatenate([logs, 1 - logs])
    return np.unique(np.concatenate([np.quantile(inside, levels), np.quantile(outside, levels)]))


def _upper(errors: NDArray[np.int64] | NDArray[np.float64], trials: int, alpha: float) -> NDArray[np.float64]:
    bound = special.betaincinv(errors + 1.0, np.maximum(trials - errors, 1e-300), 1 - alpha)
    return np.where(errors >= trials, 1.0, bound)


def best_thresholds(
    inside: Scores, outside: Scores, curve: TradeoffCurve, delta: float, alpha: float, gate_alpha: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """On data that will test nothing: the best threshold for a bound at `delta`, and the best one for rejection.

    Returns:
        (threshold, the bound it has here), and (threshold, the margin f(FPR_U) - FNR_U it has here).
    """
    candidates = thresholds(inside, outside)
    positive = len(outside) - np.searchsorted(np.sort(outside), candidates, side="right")
    negative = np.searchsorted(np.sort(inside), candidates, side="right")
    fpr, fnr = _upper(positive, len(outside), alpha / 2), _upper(negative, len(inside), alpha / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        bound = np.fmax(np.log((1 - fnr - delta) / fpr), np.log((1 - fpr - delta) / fnr))
    bound = np.nan_to_num(bound, nan=-np.inf, neginf=-np.inf)
    fpr, fnr = _upper(positive, len(outside), gate_alpha / 2), _upper(negative, len(inside), gate_alpha / 2)
    margin = np.maximum(curve(fpr) - fnr, curve(fnr) - fpr)
    first, second = int(np.argmax(bound)), int(np.argmax(margin))
    return (float(candidates[first]), float(bound[first])), (float(candidates[second]), float(margin[second]))


def best_bound(
    inside: Scores, outside: Scores, tested: tuple[int, int], delta: float, alpha: float, ratios: bool = False
) -> tuple[float, float]:
    """On data that will test nothing: the threshold to expect most of, for ln((1 - FNR_U - delta) / FPR_U).

    Few scores outside reach the best threshold, so the highest bound that was seen there is mostly luck.  Of
    log-likelihood ratios L the tail outside is known from inside, where it is not rare: P_out(L > t) =
    E_in[exp(-L); L > t].  It is believed unless the scores outside refute it.  Of other scores, the counts seen are
    taken, and their standard deviation added.

    Args:
        inside, outside: scores.
        tested: how many scores inside and outside will test the threshold.
        delta, alpha: of the bound; FPR_U takes 9/10 of alpha.
        ratios: are the scores log-likelihood ratios of inside to outside, at least of a model?  A wrong model costs
            tightness, never validity.

    Returns:
        The threshold, and the bound at the expected counts.
    """
    candidates = thresholds(inside, outside)
    ordered = np.sort(inside)
    place = np.searchsorted(ordered, candidates, side="right")
    positive = len(outside) - np.searchsorted(np.sort(outside), candidates, side="right")
    if ratios:
        weights = np.exp(np.minimum(-ordered, 600.0)) / len(inside)
        tail = np.append(np.cumsum(weights[::-1])[::-1], 0.0)[place]
        least = special.betaincinv(np.maximum(positive, 1e-300), len(outside) - positive + 1.0, 0.01)
        expected = np.clip(np.maximum(tail, least), 0.0, 1.0) * tested[1]
    else:
        expected = (positive + 1.0 + np.sqrt(positive + 1.0)) / len(outside) * tested[1]
    fpr = _upper(expected, tested[1], alpha * RARE)
    fnr = _upper(place / len(inside) * tested[0], tested[0], alpha * (1 - RARE))
    with np.errstate(divide="ignore", invalid="ignore"):
        bound = np.nan_to_num(np.log((1 - fnr - delta) / fpr), nan=-np.inf, neginf=-np.inf)
    best = int(np.argmax(bound))
    return float(candidates[best]), float(bound[best])


def gaussian_mu_lower(inside: Scores, outside: Scores, alpha: float) -> float:
    """A lower bound on mu = (mean inside - mean outside) / sigma, for scores that are Gaussian with equal variance.

    The pooled t statistic follows the noncentral t law with 2 n - 2 degrees of freedom (n a side) and noncentrality
    mu / sqrt(1 / n_in + 1 / n_out); the bound is the mu at which a value as large as seen has probability alpha.
    It bounds nothing where scores are not Gaussian, under subsampling for example.
    """
    freedom = len(inside) + len(outside) - 2
    scale = math.sqrt(1 / len(inside) + 1 / len(outside))
    squares = float(((inside - inside.mean()) ** 2).sum() + ((outside - outside.mean()) ** 2).sum())
    if squares == 0:
        return math.inf
    t = float(inside.mean() - outside.mean()) / math.sqrt(squares / freedom) / scale
    # scipy's noncentral t loses its digits for large noncentrality, so the normal approximation of Johnson and Welch
    # 1940 brackets the root and, beyond 30, is the bound: there it is exact to 1e-4 of mu.
    spread = math.sqrt(1 + t * t / (2 * freedom))
    approximate = (t * (1 - 1 / (4 * freedom)) - float(stats.norm.isf(alpha)) * spread) * scale
    if abs(t) > 30:
        return max(0.0, approximate)
    reach = 3 * spread * scale

    def excess(mu: float) -> float:
        return float(stats.nct.sf(t, freedom, mu / scale)) - alpha

    low, high = approximate - reach, approximate + reach
    return (
        max(0.0, float(optimize.brentq(excess, low, high))) if excess(low) < 0 < excess(high) else max(0.0, approximate)
    )


def mu_epsilon(mu: float, delta: float) -> float:
    """The exact epsilon of the mu-Gaussian mechanism at `delta` (Balle and Wang 2018); 0 for mu = 0."""
    if mu <= 0:
        return 0.0
    return math.inf if math.isinf(mu) else gaussian_epsilon(mu, delta)
