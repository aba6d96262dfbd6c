"""Canaries: the mechanism's own messages with and without one crafted example, many times over.

The adversary knows everything but whether the canary is held: the other examples, the network, every constant.  The
canary's statistic has norm 10 C (one of norm C cannot see a missing clip) along a direction u that the background does
not use, and the score of a message m is s = b <m, u> / C: N(0, sigma^2) without the canary, N(1, sigma^2) with it in
the batch.

Millions of trials come from `privacy.mechanism` itself, each trial a group of one release: every group has its own
noise, and every canary its own coin.  `clients` gives the same scores end to end, through `Client.answer`.
"""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from private_distdd.auditing import bounds
from private_distdd.auditing.attacks.attack import KNOWS, Source, attack
from private_distdd.auditing.attacks.outcome import bounded
from private_distdd.auditing.probe import Probe
from private_distdd.auditing.report.records import CONFIDENCE, GATE_ALPHA, AuditRecord
from private_distdd.auditing.setting import CANARY_NORM, Runs, Setting
from private_distdd.data.dataset import ImageDataset
from private_distdd.errors import ConfigurationError, DataError
from private_distdd.privacy.randomness import InsecureRandomness, Randomness
from private_distdd.site.client import Client
from private_distdd.validate import require_count
from private_distdd.wire.query import Query
from private_distdd.wire.run import Run


def _single(setting: Setting) -> None:
    if setting.rounds != 1:
        raise ConfigurationError(f"rounds = {setting.rounds}", "1", "Several messages: canary_run.")


BATCHED = "trials are independent groups of one release of privacy.mechanism: own noise, own coin of the canary"
MECHANISM = Source(Setting.runs, BATCHED)


def canary_single(
    setting: Setting, trials: int = 100_000, seed: int = 0, gate_alpha: float = GATE_ALPHA
) -> AuditRecord:
    """One message with or without the canary: rejection by the trade-off curve, and a Clopper-Pearson bound.

    Args:
        setting: of one round.
        trials: N; 4 N are made, shared out as `attack` says.
        seed: of all noise and coins (audits of the mechanism are reproducible; real messages are not).
        gate_alpha: of the rejection.

    Raises:
        ConfigurationError: several rounds.
        DataError: scores that no test can use (see `bounds.check_scores`).

    Source: Jagielski, Ullman and Oprea 2020; Nasr et al. 2023 for rejection by f.
    """
    _single(setting)
    require_count("trials", trials, "1e5 bounds epsilon to two thirds.", at_least=bounds.FEWEST)
    return attack("canary_single", setting, MECHANISM, 4 * trials, seed, gate_alpha)


def canary_gaussian(
    setting: Setting,
    trials: int = 10_000,
    seed: int = 0,
    gate_alpha: float = GATE_ALPHA,
    source: Source = MECHANISM,
) -> AuditRecord:
    """One message of every example (q = 1): a lower bound on mu by the noncentral t law, as epsilon by Balle-Wang.

    Rejected where mu's bound at the gate's level is above 1 / sigma, or where the scores fail D'Agostino and Pearson's
    test of normality at that level: then the bound means nothing, and the noise is not what was claimed.

    Args:
        setting: of one round, sample_rate 1: under subsampling a Gaussian fit is no lower bound (q = .1 and one
            release: 2.07 where the truth is 1.68).
        trials: trials a side.
        seed, gate_alpha: as for `canary_single`.
        source: of the scores: the mechanism itself, or `clients`.

    Raises:
        ConfigurationError: several rounds, or sample_rate below 1.
        DataError: as `canary_single`.
    """
    _single(setting)
    if setting.sample_rate != 1:
        raise ConfigurationError(
            f"sample_rate = {setting.sample_rate}", "1", "Use canary_single, canary_run, components."
        )
    require_count("trials", trials, "1e4 a side bounds mu to 2.5 %.", at_least=bounds.FEWEST)
    started, randomness = time.perf_counter(), InsecureRandomness(seed)
    worlds = (source.scores(setting, trials, randomness, world)[:, 0] for world in (True, False))
    inside, outside = bounds.check_scores(*worlds)
    mu = bounds.gaussian_mu_lower(inside, outside, 1 - CONFIDENCE)
    gate = bounds.gaussian_mu_lower(inside, outside, gate_alpha / 2)
    noisy = min(inside.std(), outside.std()) > 1e-3 * setting.noise_multiplier
    normality = min(2 * float(stats.normaltest(sample).pvalue) for sample in (inside, outside)) if noisy else 0.0
    normal = normality >= gate_alpha / 2
    curve = setting.curve()
    return bounded(
        f"canary{source.suffix}_gaussian",
        started,
        curve,
        lambda delta: bounds.mu_epsilon(mu, delta) if normal else 0.0,
        claim=setting.claim,
        kind="assumes Gaussian",
        statistic="pooled t of s = b <m, u> / C",
        trials=trials,
        rejected=not normal or gate > 1 / setting.noise_multiplier,
        adversary=KNOWS,
        assumptions=f"scores are Gaussian, of one variance; {source.says}",
        seed=seed,
        figures={"mu lower": mu, "mu claimed": 1 / setting.noise_multiplier, "normality p": min(1.0, normality)},
        findings=() if normal else ("the scores are not Gaussian",),
        gate_alpha=gate_alpha,
    )


def client_scores(
    background: ImageDataset,
    canary: tuple[Tensor, int],
    question: Probe,
    setting: Setting,
    runs: int,
    randomness: Randomness,
    inside: bool,
) -> Runs:
    """Scores of `runs` runs of T messages of a real client, float64 [runs, T]: answers to queries, from bytes to bytes.

    C of `setting` is replaced by a tenth of the norm of the canary's row, so that the canary has norm 10 C as it is.

    Args:
        background: what the client holds in both worlds; none of the canary's class.
        canary: the extra image, float32 [C, H, W], normalised, and its label.
        question: what the client is asked.
        setting: sigma, q, b and T.
        runs: which the client is enrolled in, one after the other.
        randomness: the client's noise and coins; where it is reproducible, its ledger says "not private".
        inside: does the client hold the canary?

    Raises:
        DataError: the background has examples of the canary's class, which would hide part of it.
    """
    info = background.info
    image, label = canary
    if (background.labels == label).any():
        raise DataError(f"background of the canary's class {label}", "none", "The canary stands alone in its class.")
    target, group = question.row(image, label, info)
    max_grad_norm = float(target.norm()) / CANARY_NORM
    plan = dataclasses.replace(setting.plan, max_grad_norm=max_grad_norm)
    held = background
    if inside:
        images = torch.cat([background.images, image[None]])
        held = ImageDataset(images, torch.cat([background.labels, torch.tensor([label])]), info)
    client = Client("audited", held, randomness=randomness)
    direction = target / target.norm()
    scores = np.empty((runs, setting.rounds))
    for number in range(runs):
        run = Run(f"audit-{number}", info, plan)
        client.enroll(run)
        for server_round in range(setting.rounds):
            query = question.query(run, server_round)
            values = client.answer(Query.from_bytes(query.data)).values
            scores[number, server_round] = float(values[group].to(torch.float64) @ direction)
    return scores * (setting.divisor / max_grad_norm)


def clients(background: ImageDataset, canary: tuple[Tensor, int], question: Probe) -> Source:
    """Scores end to end: `client_scores` of this background, canary and question."""
    return Source(
        lambda *arguments: client_scores(background, canary, question, *arguments),
        "every message is one Client.answer, from bytes to bytes; noise and coins from a seed, else the real code",
        "_client",
    )


def canary_client(
    background: ImageDataset,
    canary: tuple[Tensor, int],
    question: Probe,
    setting: Setting,
    trials: int = 1000,
    seed: int = 0,
) -> AuditRecord:
    """`canary_single` end to end: a real client, query, ledger and message for each trial.

    Args:
        background, canary, question, setting: as for `client_scores`.
        trials: half of all messages; `attack` says how many of them choose, and how many test.
        seed: of the clients' noise and coins.

    Raises:
        ConfigurationError: several rounds.
        DataError: as `client_scores` and `canary_single`.
    """
    _single(setting)
    require_count("trials", trials, "1,000 is usual.", at_least=2 * bounds.FEWEST)
    return attack("canary", setting, clients(background, canary, question), 2 * trials, seed, GATE_ALPHA)
