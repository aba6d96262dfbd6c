"""The audits that fit one release or plan, as `private-distdd audit` runs them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import torch

from private_distdd.auditing.attacks.canary import canary_client, canary_gaussian, canary_single, clients
from private_distdd.auditing.attacks.inversion import gradient_inversion
from private_distdd.auditing.attacks.membership import membership_gradient
from private_distdd.auditing.attacks.one_run import one_run, one_run_tradeoff
from private_distdd.auditing.attacks.optimisers import LBFGSAttack
from private_distdd.auditing.attacks.runs import canary_run, components
from private_distdd.auditing.checks.answered import answered
from private_distdd.auditing.checks.bill import retry_check
from private_distdd.auditing.checks.budget import filter_check
from private_distdd.auditing.checks.coins import (
    client_coin_check,
    coin_check,
    drawn_rate,
    stream_check,
)
from private_distdd.auditing.checks.leaks import client_check
from private_distdd.auditing.checks.noise import LARGE, client_noise_check, message_check, noise_check
from private_distdd.auditing.checks.observed import observed_check
from private_distdd.auditing.checks.replay import replay_client, replay_sensitivity
from private_distdd.auditing.checks.restart import restart_check
from private_distdd.auditing.checks.rows import micro_batch_check, norm_check
from private_distdd.auditing.checks.seeds import guess_check, seed_check
from private_distdd.auditing.checks.words import threshold_check
from private_distdd.auditing.report.inversion import Inversion
from private_distdd.auditing.report.records import AuditRecord
from private_distdd.auditing.setting import Setting
from private_distdd.auditing.stand_ins import digits_like, parted
from private_distdd.auditing.target import Target
from private_distdd.data.dataset import ImageDataset
from private_distdd.networks.spec import ModelSpec
from private_distdd.progress import showing
from private_distdd.questions.audited import SpecificAttack

_CELLS = 20_000_000  # scores of a canary_run, a side: 160 MB
_MEMBERSHIP_MODEL = ModelSpec("mlp", {"width": 16, "depth": 1})
_INVERTED_MODEL = ModelSpec("convnet", {"width": 16, "norm": "group", "activation": "tanh"})


def audit(target: Target, quick: bool = False, seed: int = 0, *, progress: bool = False) -> list[AuditRecord]:
    """The audits of messages under the target's own sigma, q, C, b and T_max; the deterministic ones first.

    Args:
        target: what is audited.
        quick: make ten times fewer trials; ask whole clients half as often, and for no run of several messages.  It
            takes about a minute.
        seed: of noise and coins of the statistical audits.
        progress: show on standard error which audit runs, and how many are done.
    """
    plan, info, question = target.plan, target.info, target.question
    constants = plan.noise_multiplier, plan.sample_rate, plan.max_grad_norm, plan.divisor
    once, run = Setting(*constants), Setting(*constants, rounds=plan.max_queries)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn((7, *info.shape), generator=generator)
    background = ImageDataset(images[:6], 1 + torch.arange(6) % max(1, info.num_classes - 1), info)
    canary = images[6], 0
    less = 10 if quick else 1
    drawn = dataclasses.replace(once, sample_rate=drawn_rate(once.sample_rate))
    gates: list[Callable[[], AuditRecord]] = [
        partial(replay_sensitivity, run, seed),
        partial(norm_check, once),
        partial(answered, replay_client, background, canary, question, seed),
        partial(answered, micro_batch_check),
        partial(answered, retry_check),
        partial(threshold_check, once),
        filter_check,
        partial(seed_check, once),
        partial(guess_check, once),
        partial(answered, client_check, background, question),
        restart_check,
        partial(observed_check, seed=seed),
        partial(noise_check, once, seed),
        partial(message_check, once, seed, values=LARGE if quick else 4 * LARGE),
        partial(answered, client_noise_check, once, seed),
        *([partial(coin_check, once, seed)] if drawn != once else []),
        partial(coin_check, drawn, seed),
        partial(answered, client_coin_check, once, seed),
        partial(stream_check, once, seed),
        *([partial(canary_gaussian, once, 10_000, seed)] if plan.sample_rate == 1 else []),
        partial(canary_single, once, 100_000 // less, seed),
        partial(canary_client, background, canary, question, once, 500 if quick else 1000, seed),
        partial(one_run, run, seed=seed),
        partial(one_run_tradeoff, run, seed=seed),
        partial(components, run, 1_000_000 // less, seed),
        *_memberships(target, once, 2000 // less, seed),
        partial(canary_run, run, max(1000, min(200_000 // less, _CELLS // plan.max_queries)), seed),
    ]
    if _unfit(target, "inversion"):
        gates.append(partial(_left_out, "gradient_inversion", _unfit(target, "inversion")))
    if not quick:
        source, short = clients(background, canary, question), Setting(*constants, rounds=min(10, plan.max_queries))
        gates.append(partial(components, short, 1000, seed, source=source))
        gates.append(partial(canary_run, short, 100, seed, source=source))
    records: list[AuditRecord] = []
    with showing(len(gates), unit="audit", shown=progress, even=False) as shown:
        for gate in gates:
            shown.say(_name(gate))
            records.append(gate())
            shown.at(len(records))
    return records


def _name(gate: Callable[[], AuditRecord]) -> str:
    """Of the audit that runs."""
    if not isinstance(gate, partial):
        return gate.__name__
    called: Callable[..., AuditRecord] = gate.args[0] if gate.func is answered else gate.func
    return called.__name__


def _memberships(target: Target, once: Setting, trials: int, seed: int) -> list[Callable[[], AuditRecord]]:
    """Members told from others, without privacy (does it work at all?) and under the claim; or why it was left out."""
    why = _unfit(target, "membership")
    if why:
        return [partial(_left_out, "membership_gradient", why)]
    attacked, public = parted(digits_like(target.info), 40)
    attack = partial(membership_gradient, attacked, public, _MEMBERSHIP_MODEL)
    return [partial(attack, setting, trials, seed) for setting in (None, once)]


def _unfit(target: Target, attack: SpecificAttack) -> str:
    """Why an attack does not fit the target's messages; empty where it does."""
    if attack not in target.attacks:
        return f"it does not read messages of the question {target.asks!r}"
    if attack == "inversion" and len(target.info.shape) != 3:
        return "it rebuilds pictures, and these examples are rows of a table"
    return ""


def _left_out(audit: str, why: str) -> AuditRecord:
    return AuditRecord(
        audit="left_out",
        claim="none",
        kind="descriptive",
        statistic=f"nothing: {audit} was left out",
        trials=0,
        rejected=False,
        adversary="none",
        assumptions=f"{audit} was left out, for {why}",
        seconds=0.0,
    )


def invert(target: Target, quick: bool = False, seed: int = 0, *, progress: bool = False) -> list[Inversion]:
    """Digits rebuilt from one message without privacy, with clipping alone, and with several sigma, the target's too.

    Args:
        target: sigma and C are its own; the images are public.
        quick: fewer digits and steps; some seconds.
        seed: of weights, starts and noise.
        progress: show on standard error how many are done.

    Returns:
        An inversion for each protection; none where the attack does not fit (`audit` says why).
    """
    if _unfit(target, "inversion"):
        return []
    plan = target.plan
    private, public = parted(digits_like(target.info), 40)
    drawn = [
        int(torch.nonzero(private.labels == label)[0]) for label in torch.unique(private.labels)[: 3 if quick else 6]
    ]
    clients = [ImageDataset(private.images[i : i + 1], private.labels[i : i + 1], private.info) for i in drawn]
    attack = LBFGSAttack(60 if quick else 300)
    found: list[Inversion] = []
    sigmas = (None, 0.0, *sorted({0.1, 1.0, plan.noise_multiplier}))
    with showing(len(sigmas), unit="inversion", shown=progress) as shown:
        for sigma in sigmas:
            found.append(
                gradient_inversion(clients, public, _INVERTED_MODEL, sigma, attack, plan.max_grad_norm, seed=seed)
            )
            shown.at(len(found))
    return found
