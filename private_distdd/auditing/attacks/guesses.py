"""How many right guesses on canaries that a fair coin held are too many: p-values, epsilon, trade-off curves."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from private_distdd.errors import ConfigurationError


def _counts(right: int, guesses: int, canaries: int) -> None:
    if not 0 <= right <= guesses <= canaries or canaries < 1:
        raise ConfigurationError(
            f"{right} right of {guesses} guesses on {canaries} canaries",
            "0 <= right <= guesses <= canaries",
            "Count again.",
        )


def p_value(right: int, guesses: int, canaries: int, epsilon: float, delta: float) -> float:
    """The probability, at most, that so many guesses or more are right under (epsilon, delta)-DP.

    With W ~ Binomial(r, e^epsilon / (1 + e^epsilon)): P(W >= v) + 2 m delta max over i of P(v > W >= v - i) / i.

    Args:
        right: v, right guesses.
        guesses: r, guesses made; the others were abstained from.
        canaries: m.
        epsilon, delta: the claim.

    Raises:
        ConfigurationError: not 0 <= right <= guesses <= canaries.

    Source: Steinke, Nasr and Jagielski 2023, theorem 5.2 and appendix D.
    """
    _counts(right, guesses, canaries)
    rate = 1 / (1 + math.exp(-epsilon))
    base = float(stats.binom.sf(right - 1, guesses, rate))
    if right == 0:
        return 1.0
    steps = np.arange(1, right + 1)
    mass = np.cumsum(stats.binom.pmf(right - steps, guesses, rate))
    return min(1.0, base + 2 * canaries * delta * float((mass / steps).max()))


def epsilon_lower(right: int, guesses: int, canaries: int, delta: float, alpha: float) -> float:
    """The largest epsilon that is refuted at level alpha; 0 where none is."""
    low, high = 0.0, 100.0
    if p_value(right, guesses, canaries, 0.0, delta) > alpha:
        return 0.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        if p_value(right, guesses, canaries, middle, delta) <= alpha:
            low = middle
        else:
            high = middle
    return low


def refuted(right: int, guesses: int, canaries: int, tradeoff: Callable[[float], ArrayLike], alpha: float) -> bool:
    """Does every mechanism within the trade-off f have P(so many guesses or more are right) < alpha?

    With C the number of right ones among exactly r guesses on m canaries, each held with probability 1/2, and
    S_i = P(C >= i), every f-DP mechanism has, for i = 1 ... r,

        (r - i + 1) S_(i-1) >= A_i + m f(1 - (i S_i + A_(i+1)) / m),    A_i = sum of S_k over k >= i.

    Proof.  Let R(j) be "the guess on j is right and i - 1 others are, or more", W(j) the same with "wrong".  Given the
    other canaries' coins, R(j) is W(j) with the coin of j flipped, so P(R(j)) <= F(P(W(j))) with F(x) = 1 - f(x), which
    is concave: the same holds for means over both coins, the other coins and j.  These means are
    sum over k >= i of k P(C = k) / m = (i S_i + A_(i+1)) / m, and sum over k >= i - 1 of (r - k) P(C = k) / m =
    ((r - i + 1) S_(i-1) - A_i) / m.  F(x) >= y is x >= f(1 - y), f being its own inverse.  []

    The right side grows with every S_k, so that the least S_0 that goes with S_c >= alpha comes from S_c = alpha,
    S_k = 0 beyond, and equality (or S_(i-1) = S_i) below.  Where it is above 1, S_c >= alpha is impossible.

    Args:
        right: c, right guesses.
        guesses: r, made for certain; the others were abstained from.
        canaries: m.
        tradeoff: f, or anything below it: convex, decreasing, symmetric.
        alpha: in (0, 1), the probability of refuting a mechanism within f, at most.

    Raises:
        ConfigurationError: not 0 <= right <= guesses <= canaries.

    Source: Mahloujifar, Melis and Chaudhuri 2024, "Auditing f-Differential Privacy in One Run", whose recursion over
    masses of right and wrong guesses this is, written in tails.
    """
    _counts(right, guesses, canaries)
    tail, beyond = alpha, 0.0  # S_i, A_(i+1)
    for i in range(right, 0, -1):
        hit = (i * tail + beyond) / canaries
        beyond += tail
        if hit > 1:  # the chance that a random canary is guessed right
            return True
        tail = max(tail, (beyond + canaries * float(np.asarray(tradeoff(1 - hit)))) / (guesses - i + 1))
        if tail > 1:  # later ones are no smaller
            return True
    return False
