"""Is it an answer?  Messages and enrolments as clients sent them, against what they were asked."""

from __future__ import annotations

import logging
from typing import NamedTuple

from private_distdd.errors import QueryRefusedError
from private_distdd.limits import EXAMPLES, VALUE
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
    """

    query: Query
    shape: tuple[int, int]


def is_consent(name: str, data: bytes) -> bool:
    """Is it this client's enrolment?"""
    try:
        return Enrolment.from_bytes(data).client_id == name
    except QueryRefusedError:
        _log.error("client %s answered with bytes that are no enrolment of its own", name)
        return False


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
    return message if _is_usable(run, clients, message, want.shape) else Refusal("refused")


def _is_usable(run: Run, clients: int, message: Message, shape: tuple[int, int]) -> bool:
    """Has it the form that was asked for, with values and counts that cannot end the run for all others?"""
    plan, counts = run.plan, message.counts
    scale = 1.0 if plan is None else plan.max_grad_norm / plan.divisor
    fair = counts is None or bool(((counts >= 0) & (counts <= EXAMPLES // clients)).all())
    large = message.values.numel() and float(message.values.abs().max()) > VALUE * scale
    packed = message.packing == run.packing
    return packed and message.values.shape == shape and (counts is None) == (plan is not None) and fair and not large
