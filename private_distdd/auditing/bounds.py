"""From scores of two worlds to bounds: Clopper-Pearson, and lower bounds on epsilon and on mu.

Scores come in two samples: `inside` from runs with the canary, `outside` from runs without it; larger means "inside".
A test guesses "inside" where the score is above a threshold: FPR is its error outside, FNR its error inside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

from private_distdd.errors import ConfigurationError, DataError
from private_distdd.privacy.accountants.gdp import gaussian_epsilon
from private_distdd.validate import require_number

Scores = NDArray[np.float64]

FEWEST = 20  # scores a side, below which no audit is attempted
RARE = 0.9  # of alpha, for the error that a bound divides by: it is the one counted least often


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
    # SciPy's own quantile: scipy.stats.binomtest would seek the same number as a root.
    return 1.0 if errors == trials else float(special.betaincinv(errors + 1, trials - errors, 1 - alpha))


def clopper_pearson(hits: int, trials: int, confidence: float) -> tuple[float, float]:
    """The exact interval of a rate: `clopper_pearson_upper` from both sides, each with half of what is left.

    Raises:
        ConfigurationError: as there.
    """
    alpha = (1 - confidence) / 2
    upper = clopper_pearson_upper(hits, trials, alpha)
    return 1 - clopper_pearson_upper(trials - hits, trials, alpha), upper


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
