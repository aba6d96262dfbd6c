"""Whole runs of T messages: a split-adaptive attack against the composed claim, and a bound part by part."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special, stats

from private_distdd.auditing import bounds
from private_distdd.auditing.bounds import Scores
from private_distdd.auditing.canary import BATCHED, CANARY_NORM, KNOWS, Setting, canary_scores, rows_statistic
from private_distdd.auditing.records import AIM, CONFIDENCE, DELTAS, GATE_ALPHA, AuditRecord
from private_distdd.errors import DataError
from private_distdd.privacy.accountants import bracket
from private_distdd.privacy.events import SampledGaussian
from private_distdd.privacy.randomness import InsecureRandomness, Randomness
from private_distdd.privacy.spec import require_count

Runs: TypeAlias = NDArray[np.float64]
"""Scores of runs, float64 [runs, T]."""


def run_scores(setting: Setting, runs: int, randomness: Randomness, inside: bool) -> Runs:
    """Scores of `runs` independent runs of T messages, float64 [runs, T]: one client's T messages, a run each group.

    The canary (norm 10 C, one coordinate) stands alone in its group, so that a million runs are quick.
    """
    release, scale = setting.release(), setting.divisor / setting.max_norm
    size = runs if inside else 0
    rows = torch.full((1, 1), CANARY_NORM * setting.max_norm).expand(size, 1)
    statistic = rows_statistic(rows, torch.arange(size))
    scores = np.empty((runs, setting.rounds))
    for server_round in range(setting.rounds):
        scores[:, server_round] = release(size, statistic, runs, 1, randomness)[:, 0].to(torch.float64) * scale
    return scores


def log_ratio(scores: Runs, sigma: float, q: float, shift: float = 1.0) -> Scores:
    """Log-likelihood ratio of (1 - q) N(0, sigma^2) + q N(shift, sigma^2) to N(0, sigma^2), summed over rounds."""
    gain = (2 * shift * scores - shift**2) / (2 * sigma**2)
    if q >= 1:
        return np.asarray(gain.sum(axis=1))
    return np.asarray(np.logaddexp(math.log1p(-q), math.log(q) + gain).sum(axis=1))


def statistics_of(setting: Setting, inside: Runs, outside: Runs) -> Mapping[str, Callable[[Runs], Scores]]:
    """The statistics an attacker may choose from, some of them fitted to `inside` and `outside`.

    The fit is by moments: mean q D and variance sigma^2 + q (1 - q) D^2 inside, sigma^2 outside.
    """
    sigma = float(outside.std()) or 1e-12
    mean = float(inside.mean() - outside.mean())
    excess = max(float(inside.var() - outside.var()), 0.0)
    shift = mean + excess / mean if mean > 0 else 1.0
    rate = min(max(mean / shift, 1e-6), 1.0)
    found: dict[str, Callable[[Runs], Scores]] = {
        "likelihood ratio of the claim": lambda x: log_ratio(x, setting.noise_multiplier, setting.sample_rate),
        "likelihood ratio of the fit": lambda x: log_ratio(x, sigma, rate, shift),
        "sum": lambda x: np.asarray(x.sum(axis=1)),
        "max": lambda x: np.asarray(x.max(axis=1)),
    }
    if setting.rounds > 2:
        found["max minus median"] = lambda x: np.asarray(x.max(axis=1) - np.median(x, axis=1))
    return found


def canary_run(setting: Setting, runs: int = 10_000, seed: int = 0, gate_alpha: float = GATE_ALPHA) -> AuditRecord:
    """T Poisson rounds with or without the canary, against the accountant's composed trade-off curve.

    Half of the runs fits and chooses statistic and thresholds; the other half tests.

    Args:
        setting: what is attacked, with its number of rounds.
        runs: runs a side, at least 80.
        seed: of all noise and coins.
        gate_alpha: of the rejection.

    Raises:
        ConfigurationError: too few runs.
        DataError: scores that no test can use (see `bounds.check_scores`).
    """
    require_count("runs", runs, "1e4 or more.", at_least=4 * bounds.FEWEST)
    started, randomness = time.perf_counter(), InsecureRandomness(seed)
    half, alpha = runs // 2, 1 - CONFIDENCE
    inside, outside = (run_scores(setting, runs, randomness, world) for world in (True, False))
    curve = setting.curve()
    bounding, gate = ("", 0.0, -math.inf), ("", 0.0, -math.inf)
    statistics = statistics_of(setting, inside[:half], outside[:half])
    for name, statistic in statistics.items():
        scores = bounds.check_scores(statistic(inside[:half]), statistic(outside[:half]))
        (threshold, bound), (cut, margin) = bounds.best_thresholds(*scores, curve, AIM, alpha, gate_alpha)
        bounding = max(bounding, (name, threshold, bound), key=lambda choice: choice[2])
        gate = max(gate, (name, cut, margin), key=lambda choice: choice[2])

    def errors(choice: tuple[str, float, float], level: float) -> bounds.Errors:
        statistic = statistics[choice[0]]
        tested = bounds.check_scores(statistic(inside[half:]), statistic(outside[half:]))
        return bounds.errors_at(*tested, choice[1], level)

    bounded, gated = errors(bounding, alpha), errors(gate, gate_alpha)
    return AuditRecord(
        audit="canary_run",
        claim=setting.claim,
        kind="rigorous",
        statistic=f"{bounding[0]} for the bound, {gate[0]} for the gate",
        trials=runs,
        rejected=curve.rejects(gated),
        adversary=KNOWS,
        assumptions=f"{BATCHED}; half of the runs chose what the other half tests",
        seconds=time.perf_counter() - started,
        seed=seed,
        lower=tuple((delta, bounded.epsilon(delta)) for delta in DELTAS),
        upper=tuple((delta, curve.epsilon(delta)) for delta in DELTAS),
        figures={"FPR upper": gated.false_positive, "FNR upper": gated.false_negative},
        gate_alpha=gate_alpha,
    )


def components(setting: Setting, trials: int = 100_000, seed: int = 0, gate_alpha: float = GATE_ALPHA) -> AuditRecord:
    """sigma bounded from above, the sensitivity D and q from below; then epsilon of T such rounds by the accountant.

    The same streams serve with and without the canary, so the difference of the scores is the canary's own part: D
    where its coin fell, 0 elsewhere.  D is what was seen; q has a Clopper-Pearson bound; sigma^2, from the scores
    without the canary, a chi^2 bound.  Each of the two at half the level.

    Args:
        setting: what is attacked, with its number of rounds.
        trials: messages a side.
        seed: of noise and coins.
        gate_alpha: of the rejection.

    Raises:
        DataError: the canary is never seen, or there is no noise.
    """
    require_count("trials", trials, "1e5 or more.", at_least=bounds.FEWEST)
    started = time.perf_counter()
    release = [setting.release() for _ in range(2)]
    inside, outside = (
        canary_scores(own, trials, setting.max_norm, setting.divisor, InsecureRandomness(seed), world)
        for own, world in zip(release, (True, False), strict=True)
    )
    moved = np.abs(inside - outside)
    sensitivity = float(moved.max())
    if not 0 < sensitivity < math.inf or not outside.any():
        raise DataError(
            f"a canary that moves scores by {sensitivity:g}",
            "a finite move above 0, and noise",
            "Look at replay first.",
        )
    drawn = int((moved > sensitivity / 2).sum())

    def parts(level: float) -> tuple[float, float]:
        sigma = math.sqrt(float((outside**2).sum()) / stats.chi2.ppf(level / 2, trials))
        rate = float(special.betaincinv(drawn, trials - drawn + 1, level / 2)) if drawn < trials else 1.0
        # No coin was ever seen to fall the other way: then the bound of a rate below 1 cannot be had, and 1 is claimed.
        return sigma, rate if setting.sample_rate < 1 else 1.0

    def lower(level: float, delta: float) -> float:
        sigma, rate = parts(level)
        return bracket([SampledGaussian(sigma / sensitivity, rate, setting.rounds)], delta).lower

    curve = setting.curve()
    sigma, rate = parts(1 - CONFIDENCE)
    return AuditRecord(
        audit="components",
        claim=setting.claim,
        kind="assumes the form",
        statistic="sigma, sensitivity and q, each bounded, composed by the accountant",
        trials=trials,
        rejected=lower(gate_alpha, AIM) > curve.epsilon(AIM),
        adversary=KNOWS,
        assumptions="a Poisson-subsampled Gaussian with independent rounds, of unknown sigma, sensitivity and q",
        seconds=time.perf_counter() - started,
        seed=seed,
        lower=tuple((delta, lower(1 - CONFIDENCE, delta)) for delta in DELTAS),
        upper=tuple((delta, curve.epsilon(delta)) for delta in DELTAS),
        figures={"sigma upper": sigma, "sensitivity": sensitivity, "q lower": rate},
        gate_alpha=gate_alpha,
    )
