"""How well an attack tells members from others: areas, rates and curves."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from private_distdd.auditing import bounds
from private_distdd.auditing.report.records import Curve
from private_distdd.errors import ConfigurationError
from private_distdd.privacy.tradeoff import TradeoffCurve

LOW_RATES = {"1 %": 0.01, ".1 %": 0.001}
_ROC_POINTS = 100


def area_under_curve(inside: ArrayLike, outside: ArrayLike) -> float:
    """AUC: the probability that a member scores above a non-member, ties as a half (Mann and Whitney 1947).

    Raises:
        DataError: scores that no test can use (see `bounds.check_scores`).
    """
    members, others = bounds.check_scores(inside, outside)
    ranks = stats.rankdata(np.concatenate([members, others]))[: len(members)]
    return float((ranks.sum() - len(members) * (len(members) + 1) / 2) / (len(members) * len(others)))


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
    allowed = math.floor(false_positive * len(others) + 1e-9)
    return float((members > np.sort(others)[len(others) - 1 - allowed]).mean())


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
    members, others = (np.sort(scores) for scores in bounds.check_scores(inside, outside))
    rates = np.logspace(-math.log10(len(others)), 0, _ROC_POINTS)
    allowed = np.minimum(np.floor(rates * len(others) + 1e-9).astype(int), len(others) - 1)
    found = 1 - np.searchsorted(members, others[len(others) - 1 - allowed], side="right") / len(members)
    found[-1] = 1.0  # everything is called a member
    limits = [ceiling(curve, float(rate)) for rate in rates]
    return {
        name: tuple((float(rate), float(value)) for rate, value in zip(rates, values, strict=True))
        for name, values in (("attack", found), ("ceiling", limits))
    }
