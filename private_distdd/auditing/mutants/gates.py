"""The gates that must catch every mutant, while the library's own passes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch

from private_distdd.auditing.attacks.canary import canary_gaussian, canary_single
from private_distdd.auditing.attacks.runs import canary_run
from private_distdd.auditing.checks.answered import answered
from private_distdd.auditing.checks.bill import Tap, bill_check, retry_check
from private_distdd.auditing.checks.budget import filter_check
from private_distdd.auditing.checks.coins import client_coin_check, coin_check, stream_check
from private_distdd.auditing.checks.leaks import client_check
from private_distdd.auditing.checks.noise import LARGE, client_noise_check, message_check, noise_check
from private_distdd.auditing.checks.observed import observed_check
from private_distdd.auditing.checks.replay import replay_client, replay_sensitivity
from private_distdd.auditing.checks.restart import restart_check
from private_distdd.auditing.checks.rows import micro_batch_check, norm_check
from private_distdd.auditing.checks.seeds import guess_check, seed_check
from private_distdd.auditing.checks.words import threshold_check
from private_distdd.auditing.mutants.mutants import Mutant
from private_distdd.auditing.probe import any_question, every_question
from private_distdd.auditing.report.records import GATE_ALPHA, AuditRecord
from private_distdd.auditing.setting import Setting
from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.engines.in_process import InProcess
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.privacy.randomness import Stream
from private_distdd.site.client import Client
from private_distdd.wire.engine import ASK, ENROL
from private_distdd.wire.run import Run

_STATISTICAL = 9  # gates that share the family-wise level
SMALL, _WIDTH = 50_000, 8  # values of a large message, and width of the clients' networks, where chunks play no part
_INFO = DatasetInfo("noise", 40, (1, 8, 8), (0.5,), (0.5,))


def deterministic_gates(mutant: Mutant) -> Iterator[AuditRecord]:
    """The gates that chance plays no part in, of those parts that the mutant does not share with the library.

    One after the other, as they are asked for, and the dearest last: whoever has seen enough stops.
    """
    parts = mutant.parts
    if "messages" in parts:
        once = Setting(mechanism=mutant.messages)
        yield replay_sensitivity(Setting(sample_rate=0.3, mechanism=mutant.messages))
        yield norm_check(once)
        yield threshold_check(Setting(sample_rate=0.3, mechanism=mutant.mechanism), mutant.stream)
        yield seed_check(once)
        yield guess_check(once)
    if "filter" in parts:
        yield filter_check(mutant.filter)
    if "clients" in parts:
        images = torch.randn((9, *_INFO.shape), generator=torch.Generator().manual_seed(0))
        background = ImageDataset(images[:8], 1 + torch.arange(8), _INFO)
        for question in every_question(_INFO).values():
            yield answered(client_check, background, question, mutant.make)
            yield answered(replay_client, background, (images[8], 0), question, make=mutant.make)
        yield answered(_paid, mutant.make)
        yield answered(retry_check, mutant.make)
        yield answered(micro_batch_check, mutant.make)
        yield observed_check(mutant.make)
        if mutant.stream is Stream:  # fresh interpreters import a client by its name
            yield restart_check(mutant.client)


def statistical_gates(
    mutant: Mutant, trials: int = 1000, seed: int = 0, alpha: float = GATE_ALPHA, large: int | None = None
) -> Iterator[AuditRecord]:
    """Noise, coins and canaries; all of them share `alpha` by Bonferroni.  Again of those parts that are not shared.

    Args:
        mutant: what is attacked.
        trials: messages or runs a side.
        seed: of everything random.
        alpha: probability that any of them fires on a correct library, at most.
        large: values of the largest message; by default above all chunks where streams are broken.
    """
    each = alpha / _STATISTICAL
    large = large or (SMALL if mutant.stream is Stream else LARGE)
    parts, make = mutant.parts, mutant.make
    whole, sampled = Setting(mechanism=mutant.messages), Setting(sample_rate=0.1, mechanism=mutant.messages)
    run = Setting(sample_rate=0.3, rounds=8, divisor=4.0, mechanism=mutant.messages)
    if "messages" in parts:
        yield noise_check(run, seed, each)
        yield coin_check(sampled, seed, each)
        yield stream_check(run, seed, each)
        yield canary_gaussian(whole, trials, seed, each)
        yield canary_single(whole, trials, seed, each)
        yield canary_run(run, trials, seed, each)
        yield message_check(run, seed, each, large)
    if "clients" in parts:
        yield answered(client_noise_check, run, seed, each, make, _INFO, _WIDTH)
        yield answered(client_coin_check, run, seed, each, make)


def gates(mutant: Mutant, trials: int = 1000, seed: int = 0) -> Iterator[AuditRecord]:
    """All gates on one mutant; `CORRECT` is the library itself."""
    return itertools.chain(statistical_gates(mutant, trials, seed), deterministic_gates(mutant))


def _paid(make: Callable[..., Client]) -> AuditRecord:
    """`bill_check` of four queries to one small client."""
    info = DatasetInfo("noise", 2, (1, 8, 8), (0.5,), (0.5,))
    tap = Tap(InProcess([make("audited", ImageDataset(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]), info))]))
    run = Run("bill", info, PrivacyPlan(1.0, 0.5, 1.0, 1.0, 4, delta=1e-5))
    tap.exchange(ENROL, {"audited": run.to_bytes()})
    question = any_question(info)
    for server_round in range(4):
        tap.exchange(ASK, {"audited": question.query(run, server_round).data})
    return bill_check(tap)
