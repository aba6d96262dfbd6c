"""The server's end of the line: requests to many clients at once, and of all that comes back what can be read."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from private_distdd.wire.engine import Engine, ExchangeInterrupted
from private_distdd.wire.reply import Reply

_log = logging.getLogger("private_distdd")


class Line:
    """An engine, and the ledgers that came over it.

    Args:
        engine: how the clients are reached.

    Attributes:
        client_ids: the clients that are invited, in order.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine, self.client_ids = engine, tuple(engine.client_ids)

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
        replies: dict[str, Reply | None] = {}
        for name in requests:
            data = found.get(name)
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
