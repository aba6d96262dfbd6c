"""How the server reaches the clients: bytes in, bytes out, and only fixed refusal codes instead of error texts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from private_distdd.errors import (
    BudgetExceededError,
    ComputationError,
    ConfigurationError,
    PrivateDistDDError,
    QueryRefusedError,
)
from private_distdd.site.client import Client
from private_distdd.wire.message import Message
from private_distdd.wire.query import Query
from private_distdd.wire.refusal import Refusal, Reply
from private_distdd.wire.run import Enrolment, Run

_log = logging.getLogger(__name__)


@runtime_checkable
class Transport(Protocol):
    """Carries bytes between the server and clients that may live in other processes or at other sites."""

    @property
    def client_ids(self) -> tuple[str, ...]:
        """The clients that can be reached."""
        ...

    def enroll(self, client_id: str, run: bytes) -> bytes:
        """Offer a run; the reply is an Enrolment or a Refusal."""
        ...

    def ask(self, client_id: str, query: bytes) -> bytes:
        """Ask a query; the reply is a Message or a Refusal."""
        ...

    def ledger(self, client_id: str) -> bytes:
        """The client's ledger file as it stands."""
        ...


class InProcess:
    """Clients in this process, behind the same wall of bytes as distant ones.

    Args:
        clients: at least one, with different names.

    Raises:
        ConfigurationError: no clients, or two of one name.
    """

    def __init__(self, clients: Sequence[Client]) -> None:
        self._clients = {client.client_id: client for client in clients}
        if not clients or len(self._clients) != len(clients):
            raise ConfigurationError(
                f"clients = {[client.client_id for client in clients]}",
                "at least one client, each with a name of its own",
                "Split a data set with dirichlet_split, or build Client objects.",
            )

    @property
    def client_ids(self) -> tuple[str, ...]:
        """The clients, in the order given."""
        return tuple(self._clients)

    def enroll(self, client_id: str, run: bytes) -> bytes:
        """See Transport."""
        return _sanitised(client_id, lambda: self._clients[client_id].enroll(Run.from_bytes(run)).to_bytes())

    def ask(self, client_id: str, query: bytes) -> bytes:
        """See Transport."""
        return _sanitised(client_id, lambda: self._clients[client_id].answer(Query.from_bytes(query)).data)

    def ledger(self, client_id: str) -> bytes:
        """See Transport."""
        return self._clients[client_id].ledger.to_bytes()


def _sanitised(client_id: str, call: Callable[[], bytes]) -> bytes:
    """The call's bytes, or a refusal code; the error itself goes to the client's own log only."""
    try:
        return call()
    except Exception as error:  # whatever failed, its text must not cross the wire
        match error:
            case BudgetExceededError():
                code = "budget"
            case ComputationError():
                code = "failed"
            case PrivateDistDDError():
                code = "refused"
            case _:
                code = "failed"
        logging.getLogger(f"private_distdd_client.{client_id}").error("answered %r: %s", code, error, exc_info=error)
        return Refusal(code).to_bytes()


def enroll(transport: Transport, client_id: str, run: Run) -> Enrolment | Refusal:
    """Offer a run to one client."""
    data = transport.enroll(client_id, run.to_bytes())
    refusal = Refusal.from_bytes(data)
    if refusal is not None:
        return refusal
    try:
        return Enrolment.from_bytes(data)
    except QueryRefusedError:
        _log.error("client %s answered with bytes that are no enrolment", client_id)
        return Refusal("failed")


def ask(transport: Transport, client_id: str, query: Query) -> Reply:
    """Ask one client; a reply to another query, or in another's name, counts as a failure of that client."""
    data = transport.ask(client_id, query.data)
    refusal = Refusal.from_bytes(data)
    if refusal is not None:
        return refusal
    try:
        message = Message.from_bytes(data)
    except QueryRefusedError:
        _log.error("client %s answered with bytes that are no message", client_id)
        return Refusal("failed")
    if (message.client_id, message.message_id, message.query_digest) != (client_id, query.message_id, query.digest):
        _log.error("client %s answered another query than asked", client_id)
        return Refusal("failed")
    return message
