"""Whole runs of T messages: a split-adaptive attack against the composed claim, and a bound part by part."""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np
import torch
from scipy import special, stats

from private_distdd.auditing import bounds
from private_distdd.auditing.attacks.attack import KNOWS, Source, attack
from private_distdd.auditing.attacks.canary import BATCHED, MECHANISM
from private_distdd.auditing.attacks.outcome import bounded
from private_distdd.auditing.report.records import AIM, CONFIDENCE, GATE_ALPHA, AuditRecord
from private_distdd.auditing.setting import CANARY_NORM, Runs, Setting, known_rows
from private_distdd.errors import DataError
from private_distdd.privacy.accountants import bracket
from private_distdd.privacy.events import SampledGaussian
from private_distdd.privacy.randomness import InsecureRandomness, Randomness
from private_distdd.validate import require_count


def run_scores(setting: Setting, runs: int, randomness: Randomness, inside: bool) -> Runs:
    """Scores of `runs` independent runs of T messages, float64 [runs, T]: one client's T messages, a run each group.

    The canary (norm 10 C, one coordinate) stands alone in its group, so that a million runs are quick.
    """
    measure, scale = setting.measure(), setting.divisor / setting.max_grad_norm
    size = runs if inside else 0
    rows = torch.full((1, 1), CANARY_NORM * setting.max_grad_norm).expand(size, 1)
    statistic = known_rows(rows, torch.arange(size))
    scores = np.empty((runs, setting.rounds))
    for server_round in range(setting.rounds):
        scores[:, server_round] = measure(size, statistic, runs, 1, randomness)[:, 0].to(torch.float64) * scale
    return scores


LEAN = Source(run_scores, BATCHED)


def canary_run(
    setting: Setting,
    runs: int = 10_000,
    seed: int = 0,
    gate_alpha: float = GATE_ALPHA,
    source: Source = LEAN,
) -> AuditRecord:
    """T Poisson rounds with or without the canary, against the accountant's composed trade-off curve.

    Args:
        setting: what is attacked, with its number of rounds.
        runs: N, at least 80; 2 N are made, shared out as `attack` says.
        seed: of all noise and coins.
        gate_alpha: of the rejection.
        source: of the scores: the mechanism itself, or `canary.clients`.

    Raises:
        ConfigurationError: too few runs.
        DataError: scores that no test can use (see `bounds.check_scores`).
    """
    require_count("runs", runs, "1e4 or more.", at_least=4 * bounds.FEWEST)
    return attack("canary_run", setting, source, 2 * runs, seed, gate_alpha)


def components(
    setting: Setting,
    trials: int = 100_000,
    seed: int = 0,
    gate_alpha: float = GATE_ALPHA,
    source: Source = MECHANISM,
) -> AuditRecord:
    """sigma bounded from above, the sensitivity D and q from below; then epsilon of T such rounds by the accountant.

    The same streams serve with and without the canary, so the difference of the scores is the canary's own part: D
    where its coin fell, 0 elsewhere.  D is what was seen; q has a Clopper-Pearson bound; sigma^2, from the scores
    without the canary, a chi^2 bound.  Each of the two at half the level.

    The messages are shared out over the T rounds of a run (as many as leave 20 messages each), and the batch indicator
    is bounded in each of them too: a round that takes more than q is refuted, though all together do not show it.

    Args:
        setting: what is attacked, with its number of rounds.
        trials: messages a side; rounded down to a multiple of the rounds looked at.
        seed: of noise and coins.
        gate_alpha: of the rejection.
        source: of the scores: the mechanism itself, or `canary.clients`.

    Raises:
        DataError: the canary is never seen, or there is no noise.
    """
    require_count("trials", trials, "1e5 or more.", at_least=bounds.FEWEST)
    started = time.perf_counter()
    rounds = min(setting.rounds, trials // bounds.FEWEST)
    run, runs = dataclasses.replace(setting, rounds=rounds), trials // rounds
    trials = runs * rounds
    inside, outside = (source.scores(run, runs, InsecureRandomness(seed), world) for world in (True, False))
    moved = np.abs(inside - outside)
    sensitivity = float(moved.max())
    if not 0 < sensitivity < math.inf or not outside.any():
        raise DataError(
            f"a canary that moves scores by {sensitivity:g}",
            "a finite move above 0, and noise",
            "Look at replay first.",
        )
    by_round = (moved > sensitivity / 2).sum(axis=0)
    drawn = int(by_round.sum())
    least = special.betaincinv(by_round, np.maximum(runs - by_round + 1, 1), gate_alpha / 2 / rounds)
    findings = [
        f"round {number}: the canary is drawn with probability {rate:.3g} or more"
        for number, rate in enumerate(np.where(by_round > 0, least, 0.0))
        if rate > setting.sample_rate
    ]

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
    return bounded(
        "components" + source.suffix,
        started,
        curve,
        lambda delta: lower(1 - CONFIDENCE, delta),
        claim=setting.claim,
        kind="assumes the form",
        statistic="sigma, sensitivity and q, each bounded, composed by the accountant",
        trials=trials,
        rejected=bool(findings) or lower(gate_alpha / 2, AIM) > curve.epsilon(AIM),
        adversary=KNOWS,
        assumptions=f"a subsampled Gaussian, rounds independent, of unknown sigma, sensitivity and q; {source.says}",
        seed=seed,
        figures={"sigma upper": sigma, "sensitivity": sensitivity, "q lower": rate, "rounds looked at": rounds},
        findings=tuple(findings[:10]),
        gate_alpha=gate_alpha,
    )
