"""The server's end of the line: requests to many clients at once, and of all that comes back what can be read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

from private_distdd.wire.engine import Engine, ExchangeInterrupted, Telling
from private_distdd.wire.reply import Reply

_log = logging.getLogger("private_distdd")


class Traffic(NamedTuple):
    """Bytes that one client sent and received, of all requests and replies: every try counts, and the ledgers too.

    All messages to one query have one size (A4), and a ledger tells nothing but what was asked (A7).  But how often a
    client was asked depends on who was late, and so on timings: outside the guarantee (docs/theorem.md, section 9).
    """

    sent: int = 0
    received: int = 0


class Line:
    """An engine, the ledgers that came over it, and the bytes of both directions as they pass.

    Args:
        engine: how the clients are reached.

    Attributes:
        client_ids: the clients that are invited, in order.
        traffic: of each of them, so far; of a resumed run, it goes on from what was kept.
        came: called with a client's name as soon as its reply has come, by engines that tell that.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine, self.client_ids = engine, tuple(engine.client_ids)
        if isinstance(engine, Telling):
            engine.came = lambda name: self.came(name)
        self.came: Callable[[str], object] = lambda name: None
        self.traffic = dict.fromkeys(self.client_ids, Traffic())

    def exchange(
        self, operation: str, requests: Mapping[str, bytes], enough: int | None = None, deadline: float | None = None
    ) -> tuple[dict[str, Reply | None], bool]:
        """Replies that can be read as such, by client; and whether Ctrl-C came meanwhile."""
        interrupted = False
        found: object
        try:
            found = self._engine.exchange(operation, requests, enough=enough, deadline=deadline)
        except ExchangeInterrupted as error:
            found, interrupted = error.replies, True
        except KeyboardInterrupt:
            found, interrupted = {}, True
        except Exception as error:  # whatever an engine raises: nobody's bytes came
            _log.error("the engine failed to %s: %s: %s", operation, type(error).__name__, error)
            found = {}
        if not isinstance(found, Mapping):
            _log.error("the engine answered %r with a %s", operation, type(found).__name__)
            found = {}
        came = {name: found.get(name) for name in requests}
        del found  # each reply's bytes are let go when they have been read: thousands of clients may answer
        replies: dict[str, Reply | None] = {}
        for name, request in requests.items():
            data = came.pop(name)
            self._count(name, data, request)
            if data is None:
                continue
            try:
                if not isinstance(data, bytes):
                    raise TypeError(f"a {type(data).__name__}")
                replies[name] = Reply.from_bytes(data)
            except Exception as error:  # anybody's bytes
                _log.error("client %s answered with bytes that are no reply: %s", name, error)
                replies[name] = None
        return replies, interrupted

    def _count(self, name: str, reply: object, request: bytes) -> None:
        sent, received = self.traffic[name]
        self.traffic[name] = Traffic(sent + (len(reply) if isinstance(reply, bytes) else 0), received + len(request))
