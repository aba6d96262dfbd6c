"""One training run, many canaries: the audits of Steinke, Nasr and Jagielski 2023 and of Mahloujifar et al. 2024."""

from __future__ import annotations

import math
import time

import numpy as np
import torch

from private_distdd.auditing.attacks.attack import log_ratio
from private_distdd.auditing.attacks.guesses import epsilon_lower, p_value, refuted
from private_distdd.auditing.attacks.outcome import bounded
from private_distdd.auditing.report.records import CONFIDENCE, DELTAS, GATE_ALPHA, AuditRecord
from private_distdd.auditing.setting import CANARY_NORM, Setting, known_rows
from private_distdd.errors import ConfigurationError
from private_distdd.privacy.accountants import bracket
from private_distdd.privacy.events import SampledGaussian
from private_distdd.privacy.randomness import InsecureRandomness
from private_distdd.privacy.tradeoff import TradeoffCurve
from private_distdd.validate import require_count

_KNOWS = "chooses all canaries, knows all constants, guesses which of them were held"
_RESTS_ON = "the auditor's choice of canaries is random; one run of the real mechanism"
_MOST = 64.0  # times the claimed sigma, up to which stronger claims are tried
_GATE_DELTA = DELTAS[0]  # p-values grow by up to 2 m delta: a small delta leaves room below the level of a gate


def _play(setting: Setting, canaries: int, guesses: int, seed: int) -> int:
    """Right guesses on m canaries of norm 10 C, each held with probability 1/2, in one run of T messages."""
    require_count("canaries", canaries, "1,000 is usual.", at_least=20)
    if canaries > 5000 or guesses % 2 or not 2 <= guesses <= canaries:
        raise ConfigurationError(
            f"canaries = {canaries}, guesses = {guesses}",
            "canaries <= 5000; guesses even, 2 ... canaries",
            "Ask for less.",
        )
    held = np.random.default_rng(seed).random(canaries) < 0.5
    rows = CANARY_NORM * setting.max_grad_norm * torch.eye(canaries)[torch.from_numpy(held)]
    statistic = known_rows(rows, torch.zeros(len(rows), dtype=torch.int64))
    measure, randomness = setting.measure(), InsecureRandomness(seed)
    scale = setting.divisor / setting.max_grad_norm
    scores = np.stack(
        [
            measure(len(rows), statistic, 1, canaries, randomness)[0].to(torch.float64).numpy() * scale
            for _ in range(setting.rounds)
        ],
        axis=1,
    )
    order = log_ratio(scores, setting.noise_multiplier, setting.sample_rate).argsort()
    return int(held[order[canaries - guesses // 2 :]].sum() + (~held[order[: guesses // 2]]).sum())


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
    started = time.perf_counter()
    right = _play(setting, canaries, guesses, seed)
    curve = setting.curve()
    return bounded(
        "one_run",
        started,
        curve,
        lambda delta: epsilon_lower(right, guesses, canaries, delta, 1 - CONFIDENCE),
        claim=setting.claim,
        kind="rigorous",
        statistic=f"{right} of {guesses} guesses right",
        trials=canaries,
        rejected=p_value(right, guesses, canaries, curve.epsilon(_GATE_DELTA), _GATE_DELTA) <= GATE_ALPHA,
        adversary=_KNOWS,
        assumptions=_RESTS_ON,
        seed=seed,
        gate_lower=lambda delta: epsilon_lower(right, guesses, canaries, delta, GATE_ALPHA),
        figures={"right": float(right), "guesses": float(guesses)},
    )


def one_run_tradeoff(setting: Setting, canaries: int = 1000, guesses: int = 100, seed: int = 0) -> AuditRecord:
    """The game of `one_run`, against the claim's whole trade-off curve.

    Rejected where the curve is refuted at the gate's level, whatever the mechanism is.  The bound on epsilon is that of
    the weakest claim of the same form that is refuted at 95 %: T messages, the same q, and sigma of 1 to 64 times the
    claimed one, found to 1 %.  A bound as high as the claim means "at least".

    Args:
        setting, canaries, guesses, seed: as for `one_run`.

    Raises:
        ConfigurationError: an argument is outside its range.
    """
    started = time.perf_counter()
    right = _play(setting, canaries, guesses, seed)
    curve = setting.curve()

    def claim(factor: float) -> SampledGaussian:
        return SampledGaussian(factor * setting.noise_multiplier, setting.sample_rate, setting.rounds)

    def falls(factor: float) -> bool:
        return refuted(right, guesses, canaries, TradeoffCurve([claim(factor)]), 1 - CONFIDENCE)

    # A smaller sigma has a lower curve, which is refuted less easily: so one of them parts the two.
    weakest: float | None = None
    if falls(1.0):
        weakest = 1.0
    elif falls(_MOST):
        low, weakest = 1.0, _MOST
        while weakest / low > 1.01:
            middle = math.sqrt(low * weakest)
            low, weakest = (low, middle) if falls(middle) else (middle, weakest)
    return bounded(
        "one_run_tradeoff",
        started,
        curve,
        lambda delta: bracket([claim(weakest)], delta).lower if weakest else 0.0,
        claim=setting.claim,
        kind="assumes the form",
        statistic=f"{right} of {guesses} guesses right",
        trials=canaries,
        rejected=refuted(right, guesses, canaries, curve, GATE_ALPHA),
        adversary=_KNOWS,
        assumptions=f"{_RESTS_ON}; for the bound, not the verdict: a subsampled Gaussian of unknown sigma",
        seed=seed,
        figures={"right": float(right), "guesses": float(guesses)},
    )
