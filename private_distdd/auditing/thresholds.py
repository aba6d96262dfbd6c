"""Thresholds chosen on data that will test nothing: for a bound on epsilon, or for a rejection."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import special

from private_distdd.auditing.bounds import RARE, Scores
from private_distdd.privacy.tradeoff import TradeoffCurve


def thresholds(inside: Scores, outside: Scores, most: int = 400) -> NDArray[np.float64]:
    """Candidate thresholds: quantiles of both samples, dense in the tails, where the best ones lie."""
    logs = np.logspace(math.log10(1 / max(len(inside), len(outside))), math.log10(0.5), most // 4)
    levels = np.concatenate([logs, 1 - logs])
    return np.unique(np.concatenate([np.quantile(inside, levels), np.quantile(outside, levels)]))


def _upper(errors: NDArray[np.int64] | NDArray[np.float64], trials: int, alpha: float) -> NDArray[np.float64]:
    """`bounds.clopper_pearson_upper` of hundreds of candidates at once; expected counts need not be whole."""
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
