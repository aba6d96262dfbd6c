"""Gates that ask a client: one that refuses or breaks is a finding."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from private_distdd.auditing.checks.outcome import certain
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
        return certain(
            gate.__name__,
            started,
            (f"refused: {error}",),
            claim="a query within the plan is answered, whatever the client holds",
            statistic="refusals",
            trials=1,
            adversary="the server",
            assumptions="the audit asks only what a client must answer",
        )
