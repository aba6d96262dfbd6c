"""One training run, many canaries: the audit of Steinke, Nasr and Jagielski 2023."""

from __future__ import annotations

import math
import time

import numpy as np
import torch
from scipy import stats

from private_distdd.auditing.canary import CANARY_NORM, Setting, rows_statistic
from private_distdd.auditing.records import CONFIDENCE, DELTAS, GATE_ALPHA, AuditRecord
from private_distdd.auditing.runs import log_ratio
from private_distdd.errors import ConfigurationError
from private_distdd.privacy.randomness import InsecureRandomness
from private_distdd.privacy.spec import require_count

_GATE_DELTA = DELTAS[0]  # p-values grow by up to 2 m delta: a small delta leaves room below the level of a gate


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
    if not 0 <= right <= guesses <= canaries or canaries < 1:
        raise ConfigurationError(
            f"{right} right of {guesses} guesses on {canaries} canaries",
            "0 <= right <= guesses <= canaries",
            "Count again.",
        )
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


def one_run(setting: Setting, canaries: int = 1000, guesses: int = 100, seed: int = 0) -> AuditRecord:
    """m orthogonal canaries of norm 10 C, each held with probability 1/2, in one run of T messages.

    The attacker ranks them by the log-likelihood ratio of the claim, guesses "held" for the r / 2 highest and "not
    held" for the r / 2 lowest, and abstains from the others.  r is fixed beforehand.

    Args:
        setting: what is attacked, with its number of rounds.
        canaries: m, at most 5000 (the rows take 4 m^2 bytes).
        guesses: r, even, at most m.
        seed: of noise, Poisson coins, and the auditor's choice of canaries.

    Raises:
        ConfigurationError: an argument is outside its range.
    """
    require_count("canaries", canaries, "1,000 is usual.", at_least=20)
    if canaries > 5000 or guesses % 2 or not 2 <= guesses <= canaries:
        raise ConfigurationError(
            f"canaries = {canaries}, guesses = {guesses}",
            "canaries <= 5000; guesses even, 2 ... canaries",
            "Ask for less.",
        )
    started = time.perf_counter()
    held = np.random.default_rng(seed).random(canaries) < 0.5
    rows = CANARY_NORM * setting.max_norm * torch.eye(canaries)[torch.from_numpy(held)]
    statistic = rows_statistic(rows, torch.zeros(len(rows), dtype=torch.int64))
    release, randomness = setting.release(), InsecureRandomness(seed)
    scale = setting.divisor / setting.max_norm
    scores = np.stack(
        [
            release(len(rows), statistic, 1, canaries, randomness)[0].to(torch.float64).numpy() * scale
            for _ in range(setting.rounds)
        ],
        axis=1,
    )
    order = log_ratio(scores, setting.noise_multiplier, setting.sample_rate).argsort()
    right = int(held[order[canaries - guesses // 2 :]].sum() + (~held[order[: guesses // 2]]).sum())
    curve = setting.curve()
    return AuditRecord(
        audit="one_run",
        claim=setting.claim,
        kind="rigorous",
        statistic=f"{right} of {guesses} guesses right",
        trials=canaries,
        rejected=p_value(right, guesses, canaries, curve.epsilon(_GATE_DELTA), _GATE_DELTA) <= GATE_ALPHA,
        adversary="chooses all canaries, knows all constants, guesses which of them were held",
        assumptions="the auditor's choice of canaries is random; one run of the real mechanism",
        seconds=time.perf_counter() - started,
        seed=seed,
        lower=tuple((d, epsilon_lower(right, guesses, canaries, d, 1 - CONFIDENCE)) for d in DELTAS),
        upper=tuple((d, curve.epsilon(d)) for d in DELTAS),
        figures={"right": float(right), "guesses": float(guesses)},
    )
