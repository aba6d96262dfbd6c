"""What a claim is worth, in words for somebody who has never met an epsilon."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

from private_distdd.privacy.events import SampledGaussian
from private_distdd.privacy.tradeoff import TradeoffCurve
from private_distdd.rounding import rounded_up

LARGE_DELTA = 1e-3  # above it a claim may leave one example in a thousand without any protection

Grade: TypeAlias = Literal["strong", "reasonable", "limited", "hardly any"]
"""Of a claim, for the phrase "... privacy"."""

_LIMITS: tuple[tuple[float, Grade], ...] = ((1, "strong"), (3, "reasonable"), (10, "limited"))


def grade_of(epsilon: float, delta: float) -> Grade:
    """ "strong" up to epsilon 1, "reasonable" up to 3, "limited" up to 10; else, or at delta > 1e-3, "hardly any".

    Source: the tiers of Ponomareva et al. 2023, "How to DP-fy ML", section 5.2: up to 1, up to 10 (in two here), above.
    """
    if delta > LARGE_DELTA:
        return "hardly any"
    return next((grade for limit, grade in _LIMITS if epsilon <= limit), "hardly any")


def in_words(schedule: SampledGaussian, epsilon: float, delta: float) -> str:
    """What the claim means for one example, in three sentences or four; every figure is rounded up.

    Args:
        schedule: what the claim is for.
        epsilon, delta: the claim.

    Formal guarantee: the first sentence is the claim.  The others bound every attacker, by the exact trade-off curve of
    `schedule` where sample_rate is 1 and by the accountant's upper bounds where it is below: see `TradeoffCurve`.
    """
    curve = TradeoffCurve([schedule])
    factor = rounded_up(math.exp(epsilon), 3) if epsilon < 700 else f"e^{rounded_up(epsilon)}"  # float64 ends at e^709
    spared = f", but for a chance of {rounded_up(delta, 2)}"
    words = (
        f"Whatever comes out is at most {factor} times as likely with an example as without it, or the other way "
        f"round{spared}. "
        "The best attacker, who knows all the other examples, tells whether this one was there with an advantage of at "
        f"most {_percent(curve.advantage)}, where 0 % is a coin toss and 100 % is certainty. An attacker who accuses "
        f"1 % of the absent examples finds at most {_percent(curve.ceiling(0.01))} of those present."
    )
    if delta > LARGE_DELTA:
        words += f" The chance is large: with a probability of {_percent(delta)} an example may be laid open."
    return words


def _percent(share: float) -> str:
    return f"{rounded_up(min(100.0, 100 * share), 2)} %"
