"""Engines for tests: clients in this process with a hook for each operation, and one that injects faults."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from private_distdd.engines.in_process import InProcess
from private_distdd.server.reading import Wanted
from private_distdd.site.client import Client
from private_distdd.wire.engine import ASK, ENROL, LEDGER, ExchangeInterrupted
from private_distdd.wire.query import Query
from private_distdd.wire.reply import Reply


class PerClient(InProcess):
    """Clients in this process; subclasses change what one client's answer or ledger is.

    What a hook raises counts as no bytes of this client, as with any engine; Ctrl-C ends the exchange.
    """

    def enroll(self, client_id: str, run: bytes) -> bytes:
        return self._direct(ENROL, client_id, run).answer

    def ask(self, client_id: str, query: bytes) -> bytes:
        return self._direct(ASK, client_id, query).answer

    def ledger(self, client_id: str) -> bytes:
        return self._direct(LEDGER, client_id, b"").ledger

    def _direct(self, operation: str, client_id: str, request: bytes) -> Reply:
        data = super().exchange(operation, {client_id: request})[client_id]
        assert data is not None
        return Reply.from_bytes(data)

    def exchange(
        self,
        operation: str,
        requests: Mapping[str, bytes],
        *,
        enough: int | None = None,
        deadline: float | None = None,
    ) -> Mapping[str, bytes | None]:
        replies: dict[str, bytes | None] = dict.fromkeys(requests)
        try:
            for client_id, request in requests.items():
                replies[client_id] = self._reply(operation, client_id, request)
        except KeyboardInterrupt as error:
            raise ExchangeInterrupted(replies) from error
        return replies

    def _reply(self, operation: str, client_id: str, request: bytes) -> bytes | None:
        try:
            if operation == LEDGER:
                answer = b""
            else:
                answer = self.enroll(client_id, request) if operation == ENROL else self.ask(client_id, request)
        except Exception:
            return None
        try:
            return Reply(answer, self.ledger(client_id)).to_bytes()
        except Exception:
            return None if operation == LEDGER else Reply(answer, b"").to_bytes()


class Faulty(InProcess):
    """An engine that does to each reply what it is told to.

    Args:
        clients: behind it.
        fault: from (operation, client, number of this client's request of this operation from 0, reply) to the bytes
            that arrive, None for none.
    """

    def __init__(
        self, clients: Sequence[Client], fault: Callable[[str, str, int, bytes], bytes | None], **others: bool
    ) -> None:
        super().__init__(clients, **others)
        self._fault = fault
        self._counts: dict[tuple[str, str], int] = {}
        self.requests: list[tuple[str, str, bytes]] = []

    def exchange(
        self,
        operation: str,
        requests: Mapping[str, bytes],
        *,
        enough: int | None = None,
        deadline: float | None = None,
    ) -> Mapping[str, bytes | None]:
        replies: dict[str, bytes | None] = {}
        for client_id, request in requests.items():
            number = self._counts.get((operation, client_id), 0)
            self._counts[operation, client_id] = number + 1
            self.requests.append((operation, client_id, request))
            reply = super().exchange(operation, {client_id: request})[client_id]
            assert reply is not None
            replies[client_id] = self._fault(operation, client_id, number, reply)
        return replies


def wanted(client_ids: Sequence[str], query: Query, shape: tuple[int, int]) -> dict[str, Wanted]:
    """The same query to all of them."""
    return dict.fromkeys(client_ids, Wanted(query, shape))
