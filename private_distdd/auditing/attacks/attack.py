"""The attack on scores: some runs choose a statistic and thresholds, others test them against the claim."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from private_distdd.auditing import bounds, thresholds
from private_distdd.auditing.attacks.outcome import bounded
from private_distdd.auditing.bounds import Scores
from private_distdd.auditing.report.records import AIM, CONFIDENCE, AuditRecord
from private_distdd.auditing.setting import Runs, Setting
from private_distdd.privacy.randomness import InsecureRandomness, Randomness

KNOWS = "knows the background, the network and all constants; chooses a canary of norm 10 C off the background's span"
_FIT = 10_000  # runs a side from which on one in twenty is enough to choose: the best threshold is a flat optimum
_INSIDE = 10_000  # tested runs inside from which on a quarter is enough
_CELLS, _CHUNK = 1 << 22, 1 << 18  # scores and runs held at a time


@dataclass(frozen=True)
class Source:
    """Where an audit's messages come from.

    Args:
        scores: from (setting, runs, randomness, inside) to float64 [runs, T], independent runs of T messages.
        says: what a trial is, for the record.
        suffix: of the audit's name.
    """

    scores: Callable[[Setting, int, Randomness, bool], Runs]
    says: str
    suffix: str = ""


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


def attack(name: str, setting: Setting, source: Source, total: int, seed: int, gate_alpha: float) -> AuditRecord:
    """A bound and a rejection from `total` runs, in both worlds together.

    Half of the runs choose, or as few as one in twenty where there are many.  Of the others half is inside, or as few
    as a quarter: the rate that the bound divides by is of runs outside.  The scores that test are made after the
    choice, a few at a time.

    Args:
        name: of the audit.
        setting: what is attacked.
        source: of its scores.
        total: runs, at least 80.
        seed: of all noise and coins.
        gate_alpha: of the rejection.

    Raises:
        DataError: scores that no test can use (see `bounds.check_scores`).
    """
    started, randomness, alpha = time.perf_counter(), InsecureRandomness(seed), 1 - CONFIDENCE
    at_once = max(1, min(_CHUNK, _CELLS // setting.rounds))
    fit = min(total // 4, max(_FIT, total // 40), max(bounds.FEWEST, at_once))
    rest = total - 2 * fit
    tested_inside = max(rest // 4, min(rest // 2, _INSIDE))
    tested = tested_inside, rest - tested_inside

    curve = setting.curve()
    known = [source.scores(setting, fit, randomness, world) for world in (True, False)]
    statistics = statistics_of(setting, *known)
    bounding = gate = ("sum", 0.0, -math.inf)
    for label, statistic in statistics.items():
        seen = [statistic(runs) for runs in known]
        if label != "sum" and np.ptp(np.concatenate(seen)) == 0:
            continue  # a fit that went wrong
        scores = bounds.check_scores(*seen)
        choice = thresholds.best_bound(*scores, tested, AIM, alpha, ratios=label.startswith("likelihood"))
        bounding = max(bounding, (label, *choice), key=lambda found: found[2])
        _, choice = thresholds.best_thresholds(*scores, curve, AIM, alpha, gate_alpha)
        gate = max(gate, (label, *choice), key=lambda found: found[2])
    del known

    def fresh(runs: int, inside: bool) -> dict[str, Scores]:
        parts: dict[str, list[Scores]] = {bounding[0]: [], gate[0]: []}
        for start in range(0, runs, at_once):
            scores = source.scores(setting, min(at_once, runs - start), randomness, inside)
            for label, values in parts.items():
                values.append(statistics[label](scores))
        return {label: np.concatenate(values) for label, values in parts.items()}

    inside, outside = fresh(tested[0], True), fresh(tested[1], False)

    def errors(choice: tuple[str, float, float], level: float, share: float) -> bounds.Errors:
        scores = bounds.check_scores(inside[choice[0]], outside[choice[0]])
        return bounds.errors_at(*scores, choice[1], level, share)

    bounded_at, gated = errors(bounding, alpha, bounds.RARE), errors(gate, gate_alpha, 0.5)
    return bounded(
        name + source.suffix,
        started,
        curve,
        bounded_at.epsilon,
        gate_lower=gated.epsilon,
        claim=setting.claim,
        kind="rigorous",
        statistic=f"{bounding[0]} for the bound, {gate[0]} for the gate",
        trials=total // 2,
        rejected=curve.rejects(gated.false_positive, gated.false_negative),
        adversary=KNOWS,
        assumptions=f"{source.says}; {fit:,} a side chose what {tested[0]:,} inside and {tested[1]:,} outside tested",
        seed=seed,
        gate_alpha=gate_alpha,
        figures={"FPR upper": gated.false_positive, "FNR upper": gated.false_negative, "gate threshold": gate[1]},
    )
