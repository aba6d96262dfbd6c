"""Gates that ask a client: one that refuses or breaks is a finding."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from private_distdd.auditing.report.records import AuditRecord
from private_distdd.errors import QueryRefusedError


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
