"""How well an attack tells members from others: areas, rates and curves."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from private_distdd.auditing import bounds
from private_distdd.auditing.report.records import Curve
from private_distdd.errors import ConfigurationError
from private_distdd.privacy.tradeoff import TradeoffCurve

LOW_RATES = {"1 %": 0.01, ".1 %": 0.001}
_ROC_POINTS = 100
_AREA_POINTS = 2000
_ROUNDING = 1e-9  # of a rate that is a whole number of examples


def area_under_curve(inside: ArrayLike, outside: ArrayLike) -> float:
    """AUC: the probability that a member scores above a non-member, ties as a half (Mann and Whitney 1947).

    Raises:
        DataError: scores that no test can use (see `bounds.check_scores`).
    """
    from sklearn.metrics import roc_auc_score  # heavy

    members, others = bounds.check_scores(inside, outside)
    return float(roc_auc_score(*_labelled(members, others)))


def area_interval(area: float, members: int, others: int, confidence: float) -> tuple[float, float]:
    """Wilson's interval of an AUC, at the largest variance that one can have: AUC (1 - AUC) / min(members, others).

    Unlike DeLong's it has a width where all are told apart; elsewhere it is wider by a quarter.

    Args:
        area: as observed, in [0, 1].
        members, others: how many were compared, >= 1.
        confidence: in (0, 1).

    Source: Birnbaum and Klose 1957 for the variance; Wilson 1927.
    """
    count, z = min(members, others), float(stats.norm.isf((1 - confidence) / 2))
    centre, shrink = area + z * z / (2 * count), 1 + z * z / count
    half = z * math.sqrt(area * (1 - area) / count + (z / (2 * count)) ** 2)
    return max(0.0, (centre - half) / shrink), min(1.0, (centre + half) / shrink)


def most_area(curve: TradeoffCurve | None) -> float:
    """The largest AUC that the claim allows, rounded up: the integral of 1 - f; 1 where nothing is claimed."""
    if curve is None:
        return 1.0
    points = np.unique([*np.logspace(-12, 0, _AREA_POINTS), *np.linspace(0, 1, _AREA_POINTS)])
    return min(1.0, float((np.diff(points) * (1 - curve(points[1:]))).sum()))  # 1 - f does not fall


def true_positive_rate(inside: ArrayLike, outside: ArrayLike, false_positive: float) -> float:
    """The largest share of `inside` above a threshold that at most `false_positive` of `outside` exceed.

    With fewer than 1 / false_positive scores outside, no score outside may exceed it.

    Args:
        inside, outside: scores, as for `bounds.check_scores`.
        false_positive: in (0, 1).

    Raises:
        DataError: scores that no test can use.
        ConfigurationError: the rate is outside its range.
    """
    members, others = bounds.check_scores(inside, outside)
    if not 0 < false_positive < 1:
        raise ConfigurationError(f"false_positive = {false_positive!r}", "0 < rate < 1", "0.01 and 0.001 are usual.")
    return float(_rates(members, others, np.array([false_positive]))[0])


def ceiling(curve: TradeoffCurve | None, false_positive: float) -> float:
    """The largest TPR at this FPR that the claim allows: 1 - f(FPR); 1 where nothing is claimed."""
    return 1.0 if curve is None else curve.ceiling(false_positive)


def roc(inside: ArrayLike, outside: ArrayLike, curve: TradeoffCurve | None) -> dict[str, Curve]:
    """ "attack", the TPR of the scores, and "ceiling", what the claim allows, at 100 FPRs spaced evenly on a log axis.

    Args:
        inside, outside: scores, as for `bounds.check_scores`; the first FPR is 1 / (number outside).
        curve: the claim's trade-off curve; None where nothing is claimed.

    Raises:
        DataError: scores that no test can use.
    """
    members, others = bounds.check_scores(inside, outside)
    rates = np.logspace(-math.log10(len(others)), 0, _ROC_POINTS)
    limits = [ceiling(curve, float(rate)) for rate in rates]
    return {
        name: tuple((float(rate), float(value)) for rate, value in zip(rates, values, strict=True))
        for name, values in (("attack", _rates(members, others, rates)), ("ceiling", limits))
    }


def _rates(members: bounds.Scores, others: bounds.Scores, false_positives: NDArray[np.float64]) -> bounds.Scores:
    """The largest TPR at each FPR."""
    from sklearn.metrics import roc_curve  # heavy

    found, right, _ = roc_curve(*_labelled(members, others), drop_intermediate=False)
    return np.asarray(right[np.searchsorted(found, false_positives + _ROUNDING, side="right") - 1])


def _labelled(members: bounds.Scores, others: bounds.Scores) -> tuple[NDArray[np.bool_], bounds.Scores]:
    """As scikit-learn takes them."""
    return np.repeat([True, False], [len(members), len(others)]), np.concatenate([members, others])
