"""Is it an answer?  Messages and enrolments as clients sent them, against what they were asked."""

from __future__ import annotations

import logging
from typing import NamedTuple

import torch

from private_distdd.errors import QueryRefusedError
from private_distdd.limits import EXAMPLES, VALUE
from private_distdd.server.norms import honest_norms
from private_distdd.wire.message import Message
from private_distdd.wire.query import Query
from private_distdd.wire.refusal import Refusal
from private_distdd.wire.reply import Reply
from private_distdd.wire.run import Enrolment, Run

_log = logging.getLogger("private_distdd")


class Wanted(NamedTuple):
    """What one client is asked, and how an answer must look.

    Args:
        query: the question.
        shape: of the message's values; an answer of another one is none.
        as_measured: with privacy, are the values noisy sums just as the mechanism gives them, those of several
            measurements side by side?  Then an honest message's norm has bounds (`honest_norms`).
    """

    query: Query
    shape: tuple[int, int]
    as_measured: bool = False


def read_consent(name: str, data: bytes) -> Enrolment | None:
    """This client's enrolment, or None: it is none."""
    try:
        found = Enrolment.from_bytes(data)
    except QueryRefusedError:
        _log.error("client %s answered with bytes that are no enrolment of its own", name)
        return None
    return found if found.client_id == name else None


def read_answer(run: Run, clients: int, name: str, want: Wanted, reply: Reply | None) -> Message | Refusal | None:
    """A message of this client to this query, a refusal, or None: nothing that can be read as either came.

    Args:
        run: whose plan the message follows.
        clients: how many are invited: together they can hold so many examples as numpy can draw from.
        name: the client.
        want: what it was asked.
        reply: what came of it.
    """
    if reply is None:
        return None
    refusal = Refusal.from_bytes(reply.answer)
    if refusal is not None:
        return refusal
    try:
        message = Message.from_bytes(reply.answer)
    except QueryRefusedError:
        _log.error("client %s answered with bytes that are no message", name)
        return None
    query = want.query
    if (message.client_id, message.message_id, message.query_digest) != (name, query.message_id, query.digest):
        _log.error("client %s answered another query than asked", name)
        return None
    fault = _fault(run, clients, message, want)
    if fault is None:
        return message
    _log.error("client %s sent a message that is not used: %s", name, fault)
    return Refusal("refused")


def _fault(run: Run, clients: int, message: Message, want: Wanted) -> str | None:
    """What keeps it from the form that was asked for, or could end the run for all others; None if nothing does."""
    plan, counts, values = run.plan, message.counts, message.values
    if message.packing != run.packing or values.shape != want.shape or (counts is None) != (plan is not None):
        return "it has another form than was asked for"
    if counts is not None and not bool(((counts >= 0) & (counts <= EXAMPLES // clients)).all()):
        return "it counts examples that nobody can hold"
    if not values.numel():
        return None
    if float(values.abs().max()) > VALUE * (1.0 if plan is None else plan.max_grad_norm / plan.divisor):
        return "it has values that would overflow"
    if plan is not None and want.as_measured:
        least, most = honest_norms(plan, run.packing, *want.shape)
        norms = torch.linalg.vector_norm(values, dim=1, dtype=torch.float64)
        if not bool(((norms >= least) & (norms <= most)).all()):
            return (
                f"it has norms from {float(norms.min()):.3g} to {float(norms.max()):.3g}, not {least:.3g} to {most:.3g}"
            )
    return None
