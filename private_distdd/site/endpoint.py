"""The wall around a client: bytes in; an answer's bytes, or a refusal that tells nothing, out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from private_distdd.errors import (
    BudgetExceededError,
    ComputationError,
    ConsentPendingError,
    NotEnrolledError,
    PrivateDistDDError,
    QueryRefusedError,
)
from private_distdd.questions.question import Question
from private_distdd.questions.register import private_question
from private_distdd.site.client import Client
from private_distdd.site.company import Answering, alone
from private_distdd.wire.engine import ASK, ENROL, LEDGER
from private_distdd.wire.query import Query
from private_distdd.wire.refusal import Refusal
from private_distdd.wire.reply import Reply
from private_distdd.wire.run import Run


class Shared:
    """What clients of one process need once, where several are asked the same: queries as read, and their questions."""

    def __init__(self) -> None:
        self._queries: dict[bytes, Query] = {}
        self._questions: dict[tuple[object, ...], Question] = {}

    def query(self, request: bytes) -> Query:
        """See `Query.from_bytes`."""
        if request not in self._queries:
            self._queries[request] = Query.from_bytes(request)
        return self._queries[request]

    def question(self, name: str, arguments: Mapping[str, Any], tensors: Mapping[str, Tensor], *owner: Any) -> Question:
        """See `private_question`; the same arguments and tensors are one query's."""
        key = (name, id(arguments), id(tensors), *owner)
        if key not in self._questions:
            self._questions[key] = private_question(name, arguments, tensors, *owner)
        return self._questions[key]


class Endpoint:
    """A client as every engine reaches it: one for each client and engine.

    Args:
        client: who answers.

    Formal guarantee: whatever arrives and whatever fails, what leaves is an enrolment, a message of `Client.answer`, a
    signed attestation of the ledger, or a refusal with one of the fixed `CODES`; and the ledger.  Ledger and
    attestation hold no data.  Error texts stay in the client's own log (A7).
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._log = logging.getLogger(f"private_distdd_client.{client.client_id}")

    def handle(self, operation: str, request: bytes) -> bytes:
        """The `Reply` to one request, as bytes; never raises but for what is no `Exception`."""
        return alone(self.handling(operation, request, Shared()))

    def handling(self, operation: str, request: bytes, shared: Shared) -> Answering[bytes]:
        """The same, for rows that are computed elsewhere: see `site.company`.

        Args:
            operation: see `handle`.
            request: likewise.
            shared: with the other clients that are asked meanwhile.
        """
        try:
            if operation == LEDGER and request:  # the very ledger that is signed: others may write to it meanwhile
                signed, ledger = self._client.attest(Run.from_bytes(request))
                return Reply(signed.to_bytes(), ledger).to_bytes()
            answer = yield from self._answering(operation, request, shared)
            return Reply(answer, self._ledger()).to_bytes()
        except Exception as error:  # whatever failed, its text must not cross the wire
            code = _code(error)
            # A refusal says all in its text; where a computation failed, only the trace tells where.
            self._log.error("answered %r: %s", code, error, exc_info=error if code == "failed" else None)
        return Reply(Refusal(code).to_bytes(), self._ledger()).to_bytes()

    def _answering(self, operation: str, request: bytes, shared: Shared) -> Answering[bytes]:
        match operation:
            case "enrol":
                return self._client.enroll(Run.from_bytes(request)).to_bytes()
            case "ask":
                query = shared.query(request)
                if type(self._client).answer is not _ANSWER:  # a subclass with an answer of its own
                    return self._client.answer(query).data
                return (yield from self._client.answering(query, shared.question)).data
            case "ledger":
                return b""
        raise QueryRefusedError(f"operation {operation!r}", f"one of {(ENROL, ASK, LEDGER)}", "Ask for one of these.")

    def _ledger(self) -> bytes:
        try:
            return self._client.ledger.to_bytes()
        except Exception as error:
            self._log.error("the ledger cannot be read: %s", error, exc_info=error)
            return b""


_ANSWER = Client.answer


def _code(error: Exception) -> str:
    match error:
        case BudgetExceededError():
            return "budget"
        case NotEnrolledError():
            return "not_enrolled"
        case ConsentPendingError():
            return "waiting"
        case ComputationError():
            return "failed"
        case PrivateDistDDError():
            return "refused"
    return "failed"
