"""The bill: every message charged, before it is computed, and no try free."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from private_distdd.auditing.checks.outcome import certain
from private_distdd.auditing.probe import any_question
from private_distdd.auditing.report.records import AuditRecord
from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.encoding import sha256
from private_distdd.errors import PrivateDistDDError
from private_distdd.privacy.ledger import Charge, parse
from private_distdd.privacy.mechanism import SampledGaussianMechanism
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.site.client import Client
from private_distdd.wire.engine import ASK, ENROL, LEDGER, Engine
from private_distdd.wire.message import Message
from private_distdd.wire.refusal import Refusal
from private_distdd.wire.reply import Reply
from private_distdd.wire.run import Run


class Tap:
    """An engine that notes what passes: wrap the run's own, hand this to `fit`, then ask `bill_check`.

    Args:
        engine: the one that is listened to.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.messages: dict[str, dict[str, set[str]]] = {name: {} for name in engine.client_ids}
        """By client and message id: the SHA-256 of each different message seen."""
        self.plans: dict[str, PrivacyPlan | None] = {}

    @property
    def client_ids(self) -> tuple[str, ...]:
        """See Engine."""
        return self._engine.client_ids

    def exchange(
        self,
        operation: str,
        requests: Mapping[str, bytes],
        *,
        enough: int | None = None,
        deadline: float | None = None,
    ) -> Mapping[str, bytes | None]:
        """See Engine."""
        for request in requests.values() if operation == ENROL else ():
            offered = Run.from_bytes(request)
            self.plans[offered.run_id] = offered.plan
        replies = self._engine.exchange(operation, requests, enough=enough, deadline=deadline)
        for client_id, data in replies.items():
            answer = b"" if data is None else Reply.from_bytes(data).answer
            if operation == ASK and answer and Refusal.from_bytes(answer) is None:
                seen = self.messages[client_id].setdefault(Message.from_bytes(answer).message_id, set())
                seen.add(sha256(answer))
        return replies

    def ledger(self, client_id: str) -> bytes:
        """The client's ledger as it stands."""
        data = self._engine.exchange(LEDGER, {client_id: b""})[client_id]
        return b"" if data is None else Reply.from_bytes(data).ledger


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
    query = any_question(info).query(run, 0)

    def fail(*_: Any) -> Tensor:
        raise MemoryError("put in by an audit")

    with mock.patch.object(SampledGaussianMechanism, "begin", fail):
        for number in range(1, tries + 2):
            try:
                client.answer(query)
                findings.append(f"try {number}: a message came of a computation that failed")
            except PrivateDistDDError:
                pass
            paid = sum(isinstance(entry, Charge) for entry in client.ledger)
            if paid != min(number, tries):
                findings.append(f"after {number} tries {paid} charges, not {min(number, tries)}")
    return certain(
        "retry_check",
        started,
        findings,
        claim="a computation that failed uses its charge up",
        statistic="charges after each of several tries",
        trials=tries + 1,
        adversary="asks again after a failure",
        assumptions="the mechanism is where the client computes",
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
    return certain(
        "bill_check",
        started,
        findings,
        claim="every message that left is charged to its client's ledger, with the run's sigma and q",
        statistic="messages at the engine against charges in the ledgers",
        trials=seen,
        adversary="none: the auditor listens to the engine",
        assumptions="all messages pass this engine",
    )
