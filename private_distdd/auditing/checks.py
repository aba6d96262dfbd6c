"""Deterministic audits: how far one example moves a message, and whether every message was paid for."""

from __future__ import annotations

import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from private_distdd.auditing.canary import Setting, rows_statistic
from private_distdd.auditing.question import Question, about_gradients
from private_distdd.auditing.records import AuditRecord
from private_distdd.data.datasets import DatasetInfo, ImageDataset
from private_distdd.errors import PrivateDistDDError, QueryRefusedError
from private_distdd.federation.client import Client
from private_distdd.federation.messages import Message, Refusal, Run
from private_distdd.federation.transport import Transport
from private_distdd.models import ModelSpec
from private_distdd.privacy.ledger import Charge, parse
from private_distdd.privacy.mechanism import LATTICE, SampledGaussianMechanism
from private_distdd.privacy.randomness import InsecureRandomness
from private_distdd.privacy.spec import PrivacyPlan

_LITTLE = (
    2.0**-20
)  # sigma of replays, one lattice unit: the noise is the same in both worlds, and must not blur float32
_DIMENSION, _CRAFTED = 64, 300_000
_TINY = 168  # lattice units of each of the crafted gradient's small coordinates
_OVER = 1 + 1e-4  # the crafted gradient's true norm, in units of C; float32 norms take it for less than C


def _examples(background: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Hostile statistics for C = 1, by name; `background` is one group's rows."""
    generator = torch.Generator().manual_seed(0)
    natural = torch.randn(_DIMENSION, generator=generator) / 20
    yield "natural", natural
    yield "scaled by 50", 50 * natural
    yield "huge", 1e30 * natural
    yield "against its group", -100 * background.sum(dim=0)
    for name, value in (("NaN", math.nan), ("infinite", math.inf)):
        row = natural.clone()
        row[3] = value
        yield name, row


def _crafted() -> Tensor:
    """One large and 300,000 tiny coordinates on the lattice, of norm 1.0001: float32 sums lose the tiny squares."""
    row = torch.full((_CRAFTED + 1,), _TINY / LATTICE)
    row[0] = math.sqrt(_OVER**2 - _CRAFTED * (_TINY / LATTICE) ** 2)
    return row


def replay_sensitivity(setting: Setting, seed: int = 0) -> AuditRecord:
    """The same noise and coins with and without one example: one group moves by at most C / b, the others not at all.

    The claimed C and b are replaced by 1 and sigma by 2^-20, so that float32 holds the lattice integers exactly and the
    comparison has no tolerance.  The examples: natural, scaled by 50, huge, against its group's sum, with NaN, with
    infinity, and one of 300,001 lattice coordinates whose norm float32 underestimates.  With q = 1 an example must move
    the message, to the last bit, as it does where it is alone (A2): nothing but sums of rows is in it.

    Args:
        setting: what is attacked.
        seed: of the noise and coins that both worlds share.
    """
    started = time.perf_counter()
    findings, worst, compared = [], 0.0, 0
    generator = torch.Generator().manual_seed(1)
    background = torch.randn(6, _DIMENSION, generator=generator) / 20
    groups = torch.tensor([0, 0, 1, 1, 2, 2])
    cases = [(name, background, row) for name, row in _examples(background[2:4])]
    cases.append(("crafted against float32 norms", torch.zeros(6, _CRAFTED + 1), _crafted()))
    for rate in {setting.sample_rate, 1.0}:
        for name, held, row in cases:
            dimension = held.shape[1]
            # The example comes last in the batch; sums of integers do not see the order.
            worlds = [
                setting.mechanism(_LITTLE, rate, 1.0, 1.0)(
                    len(rows), rows_statistic(rows, own), 3, dimension, InsecureRandomness(seed)
                ).to(torch.float64)
                for rows, own in (
                    (held, groups),
                    (torch.cat([held, row[None]]), torch.cat([groups, torch.tensor([1])])),
                )
            ]
            moved = worlds[1] - worlds[0]
            compared += 1
            if rate == 1:
                alone, nothing = (
                    setting.mechanism(_LITTLE, rate, 1.0, 1.0)(
                        n, rows_statistic(row[None], torch.tensor([1])), 3, dimension, InsecureRandomness(seed)
                    ).to(torch.float64)
                    for n in (1, 0)
                )
                if not torch.equal(moved, alone - nothing):
                    findings.append(f"{name}: the example moves the message otherwise than it does alone")
            if not bool(torch.isfinite(moved).all()):
                findings.append(f"{name}: the message is not finite")
                continue
            distance = math.sqrt(float(moved.square().sum()))
            worst = max(worst, distance)
            if float(moved.square().sum()) > 1.0:
                findings.append(f"{name}: one example moves the message by {distance:.6g} C / b")
            if bool(moved[[0, 2]].any()):
                findings.append(f"{name}: the message moves in groups that the example is not in")
    return AuditRecord(
        audit="replay_sensitivity",
        claim="one example moves one group of a message by at most C / b",
        kind="deterministic",
        statistic="norm of the difference of two messages with equal noise and coins",
        trials=compared,
        rejected=bool(findings),
        adversary="adds one example of their choice",
        assumptions="the examples tried; nothing is said about others",
        seconds=time.perf_counter() - started,
        seed=seed,
        figures={"largest move in C / b": worst},
        findings=tuple(findings),
    )


def replay_client(
    background: ImageDataset,
    example: tuple[Tensor, int],
    question: Question,
    seed: int = 0,
    make: Callable[..., Client] = Client,
) -> AuditRecord:
    """`replay_sensitivity` end to end: real clients with and without the example; honest, huge and NaN tensors.

    The example comes as it is and scaled by 50.  C = b = q = 1 and sigma = 2^-20.  It moves one group by at most C / b,
    the others not at all; as much, to the last bit, beside the background as alone; and with honest tensors each block
    of a row (see `Question.blocks`) by what its clipped row says.

    Args:
        background: what the clients hold; at most 10 examples of a class, so that float32 stays exact.
        example: image float32 [C, H, W], and label.
        question: what both are asked.
        seed: of the noise that all share; the clients' ledgers therefore say "not private".
        make: the clients: `Client`, or what takes its place.
    """
    started = time.perf_counter()
    info, (image, label) = background.info, example
    questions = question.hostile()
    plan = PrivacyPlan(_LITTLE, 1.0, 1.0, 1.0, len(questions), delta=1e-5)
    run = Run("replay", info, plan)
    findings, worst = [], 0.0

    (_, group), blocks = question.row(image, label, info), question.blocks(info)

    def messages(images: Tensor, labels: Tensor) -> list[Tensor]:
        client = make("audited", ImageDataset(images, labels, info), randomness=InsecureRandomness(seed))
        client.enroll(run)
        queries = (asked.query(run, i) for i, asked in enumerate(questions.values()))
        return [client.answer(query).values.to(torch.float64) for query in queries]

    without = messages(background.images, background.labels)
    nothing = messages(background.images[:0], background.labels[:0])
    for scale in (1.0, 50.0):
        own, target = scale * image[None], torch.tensor([label])
        beside = messages(torch.cat([background.images, own]), torch.cat([background.labels, target]))
        alone = messages(own, target)
        for name, *told in zip(questions, beside, without, alone, nothing, strict=True):
            moved = told[0] - told[1]
            where = f"{name} tensors, image times {scale:g}"
            squared = float(moved.square().sum())
            worst = max(worst, math.sqrt(squared))
            if not squared <= 1.0:
                findings.append(f"{where}: moved by {math.sqrt(squared):.6g} C / b")
            if bool(moved[torch.arange(len(moved)) != group].any()):
                findings.append(f"{where}: other classes moved")
            if not torch.equal(moved, told[2] - told[3]):
                findings.append(f"{where}: it moves the message otherwise than it does alone")
            if name == "honest":
                row, _ = question.row(own[0], label, info)
                row = row / max(1.0, float(row.norm()))
                findings += [
                    f"{where}: block {block!r} is not moved by its part of the clipped row"
                    for block, part in blocks.items()
                    if not float((moved[group, part] - row[part]).abs().max()) <= 2 * _LITTLE
                ]
    return AuditRecord(
        audit="replay_client",
        claim="one example moves one class of a message by at most C / b",
        kind="deterministic",
        statistic="norm of the difference of two clients' messages with equal noise",
        trials=4 * len(questions),
        rejected=bool(findings),
        adversary="chooses one example and the query's tensors",
        assumptions="the examples and tensors tried; nothing is said about others",
        seconds=time.perf_counter() - started,
        seed=seed,
        figures={"largest move in C / b": worst},
        findings=tuple(findings),
    )


def answered(gate: Callable[..., AuditRecord], *arguments: Any, **named: Any) -> AuditRecord:
    """What `gate` finds; or that a client refused, which is a finding where every query is within the plan.

    Args:
        gate: an audit of clients.
        arguments, named: its own.
    """
    started = time.perf_counter()
    try:
        return gate(*arguments, **named)
    except QueryRefusedError as error:
        return AuditRecord(
            audit=gate.__name__,
            claim="a query within the plan is answered, whatever the client holds",
            kind="deterministic",
            statistic="refusals",
            trials=1,
            rejected=True,
            adversary="the server",
            assumptions="the audit asks only what a client must answer",
            seconds=time.perf_counter() - started,
            findings=(f"refused: {error}",),
        )


class Tap:
    """A transport that notes what passes: wrap the run's own, hand this to `fit`, then ask `bill_check`.

    Args:
        transport: the one that is listened to.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.messages: dict[str, dict[str, set[str]]] = {name: {} for name in transport.client_ids}
        """By client and message id: the SHA-256 of each different message seen."""
        self.plans: dict[str, PrivacyPlan | None] = {}

    @property
    def client_ids(self) -> tuple[str, ...]:
        """See Transport."""
        return self._transport.client_ids

    def enroll(self, client_id: str, run: bytes) -> bytes:
        """See Transport."""
        offered = Run.from_bytes(run)
        self.plans[offered.run_id] = offered.plan
        return self._transport.enroll(client_id, run)

    def ask(self, client_id: str, query: bytes) -> bytes:
        """See Transport."""
        reply = self._transport.ask(client_id, query)
        if Refusal.from_bytes(reply) is None:
            message = Message.from_bytes(reply)
            seen = self.messages[client_id].setdefault(message.message_id, set())
            seen.add(hashlib.sha256(reply).hexdigest())
        return reply

    def ledger(self, client_id: str) -> bytes:
        """See Transport."""
        return self._transport.ledger(client_id)


def retry_check(make: Callable[..., Client] = Client) -> AuditRecord:
    """A computation that fails is paid for each time that it is tried, up to T_max, and nothing leaves.

    A fault is put in: the mechanism fails for every batch.  A real failure may depend on the data, so a server that
    could have it tried again for nothing would learn more with each try.

    Args:
        make: the client: `Client`, or what takes its place.
    """
    started, findings, tries = time.perf_counter(), list[str](), 3
    info = DatasetInfo("noise", 2, (1, 8, 8), (0.5,), (0.5,))
    run = Run("retry", info, PrivacyPlan(1.0, 1.0, 1.0, 1.0, tries, delta=1e-5))
    client = make("audited", ImageDataset(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]), info))
    client.enroll(run)
    query = about_gradients(ModelSpec("mlp", {"width": 2, "depth": 1}), info).query(run, 0)

    def fail(*_: Any) -> Tensor:
        raise MemoryError("put in by an audit")

    with mock.patch.object(SampledGaussianMechanism, "release", fail):
        for number in range(1, tries + 2):
            try:
                client.answer(query)
                findings.append(f"try {number}: a message came of a computation that failed")
            except PrivateDistDDError:
                pass
            paid = sum(isinstance(entry, Charge) for entry in client.ledger)
            if paid != min(number, tries):
                findings.append(f"after {number} tries {paid} charges, not {min(number, tries)}")
    return AuditRecord(
        audit="retry_check",
        claim="a computation that failed uses its charge up",
        kind="deterministic",
        statistic="charges after each of several tries",
        trials=tries + 1,
        rejected=bool(findings),
        adversary="asks again after a failure",
        assumptions="the mechanism is where the client computes",
        seconds=time.perf_counter() - started,
        findings=tuple(findings),
    )


def bill_check(tap: Tap) -> AuditRecord:
    """Every different message that passed has one charge in its client's ledger, with the run's own event.

    A reply repeated after a loss has the same bytes and counts once.  A charge without a message (a crash between
    them) is a finding too: the bill is then too high, not too low.

    Args:
        tap: what was listened to, after the run.
    """
    started = time.perf_counter()
    findings, seen = [], 0
    for client_id, messages in tap.messages.items():
        charges = [entry for entry in parse(tap.ledger(client_id)) if isinstance(entry, Charge)]
        charges = [entry for entry in charges if entry.message_id.partition(":")[0] in tap.plans]
        counted = Counter(entry.message_id for entry in charges)
        for message_id in sorted(messages.keys() | counted.keys()):
            passed = len(messages.get(message_id, ()))
            seen += passed
            if passed != counted[message_id]:
                findings.append(
                    f"{client_id}: {message_id}: {passed} messages passed, {counted[message_id]} were charged"
                )
        for entry in charges:
            plan = tap.plans[entry.message_id.partition(":")[0]]
            if plan is not None and entry.event != plan.event:
                findings.append(f"{client_id}: {entry.message_id}: charged {entry.event}, not {plan.event}")
        for run_id, plan in tap.plans.items():
            of_run = sum(len(digests) for name, digests in messages.items() if name.startswith(f"{run_id}:"))
            if plan is not None and of_run > plan.max_queries:
                findings.append(f"{client_id}: {run_id}: {of_run} messages, more than T_max = {plan.max_queries}")
    return AuditRecord(
        audit="bill_check",
        claim="every message that left is charged to its client's ledger, with the run's sigma and q",
        kind="deterministic",
        statistic="messages at the transport against charges in the ledgers",
        trials=seen,
        rejected=bool(findings),
        adversary="none: the auditor listens to the transport",
        assumptions="all messages pass this transport",
        seconds=time.perf_counter() - started,
        findings=tuple(findings),
    )
