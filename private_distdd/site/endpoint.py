"""The wall around a client: bytes in; an answer's bytes, or a refusal that tells nothing, out."""

from __future__ import annotations

import logging

from private_distdd.errors import (
    BudgetExceededError,
    ComputationError,
    NotEnrolledError,
    PrivateDistDDError,
    QueryRefusedError,
)
from private_distdd.site.client import Client
from private_distdd.wire.engine import ASK, ENROL, LEDGER
from private_distdd.wire.query import Query
from private_distdd.wire.refusal import Refusal
from private_distdd.wire.reply import Reply
from private_distdd.wire.run import Run


class Endpoint:
    """A client as every engine reaches it: one for each client and engine.

    Args:
        client: who answers.

    Formal guarantee: whatever arrives and whatever fails, what leaves is an enrolment, a message of `Client.answer`, or
    a refusal with one of four fixed codes; and the ledger, which holds no data.  Error texts stay in the client's own
    log (A7).
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._log = logging.getLogger(f"private_distdd_client.{client.client_id}")

    def handle(self, operation: str, request: bytes) -> bytes:
        """The `Reply` to one request, as bytes; never raises but for what is no `Exception`."""
        try:
            answer = self._answer(operation, request)
        except Exception as error:  # whatever failed, its text must not cross the wire
            code = _code(error)
            self._log.error("answered %r: %s", code, error, exc_info=error)
            answer = Refusal(code).to_bytes()
        return Reply(answer, self._ledger()).to_bytes()

    def _answer(self, operation: str, request: bytes) -> bytes:
        match operation:
            case "enrol":
                return self._client.enroll(Run.from_bytes(request)).to_bytes()
            case "ask":
                return self._client.answer(Query.from_bytes(request)).data
            case "ledger":
                return b""
        raise QueryRefusedError(f"operation {operation!r}", f"one of {(ENROL, ASK, LEDGER)}", "Ask for one of these.")

    def _ledger(self) -> bytes:
        try:
            return self._client.ledger.to_bytes()
        except Exception as error:
            self._log.error("the ledger cannot be read: %s", error, exc_info=error)
            return b""


def _code(error: Exception) -> str:
    match error:
        case BudgetExceededError():
            return "budget"
        case NotEnrolledError():
            return "not_enrolled"
        case ComputationError():
            return "failed"
        case PrivateDistDDError():
            return "refused"
    return "failed"
