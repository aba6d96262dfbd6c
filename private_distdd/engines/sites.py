"""Sites on this machine, each a daemon of its own (`private-distdd site run`), reached by their sockets."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Mapping

from private_distdd.engines.relay import through
from private_distdd.errors import ConfigurationError, QueryRefusedError
from private_distdd.wire.engine import ExchangeInterrupted
from private_distdd.wire.frame import request_frame, response_of

_log = logging.getLogger("private_distdd")


class Sites:
    """Site daemons of this machine and this user, asked all at once.

    Who cannot be reached, hangs up or comes too late is absent; a site answers the same bytes again for nothing.

    Args:
        sockets: each client's socket, as its owner's configuration says; at least one.

    Raises:
        ConfigurationError: there is none.
    """

    def __init__(self, sockets: Mapping[str, str | os.PathLike[str]]) -> None:
        if not sockets:
            raise ConfigurationError("no sites", "at least one", "Pass Sites({client_id: path of its socket}).")
        self._sockets = {name: os.fspath(path) for name, path in sockets.items()}

    @property
    def client_ids(self) -> tuple[str, ...]:
        """The clients, in the order given."""
        return tuple(self._sockets)

    def exchange(
        self,
        operation: str,
        requests: Mapping[str, bytes],
        *,
        enough: int | None = None,
        deadline: float | None = None,
    ) -> Mapping[str, bytes | None]:
        """See `Engine`.  A thread for each client; none is left when this returns."""
        end = None if deadline is None else time.monotonic() + deadline
        expiry = expiry_of(deadline)
        came: queue.SimpleQueue[tuple[str, bytes | None]] = queue.SimpleQueue()
        replies: dict[str, bytes | None] = dict.fromkeys(requests)
        connections = {name: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for name in requests}

        def ask(name: str) -> None:
            reply = None
            try:
                frame = request_frame(operation, requests[name], expiry)
                reply = response_of(through(connections[name], self._sockets[name], frame, deadline))
            except (OSError, QueryRefusedError) as error:
                _log.info("client %s is absent: %s", name, error)
            came.put((name, reply))

        threads = [threading.Thread(target=ask, args=(name,), daemon=True) for name in requests]
        wanted = len(requests) if enough is None else enough
        try:
            for thread in threads:
                thread.start()
            for _ in requests:
                if sum(reply is not None for reply in replies.values()) >= wanted:
                    break
                name, reply = came.get(timeout=None if end is None else max(0.0, end - time.monotonic()))
                replies[name] = reply
        except queue.Empty:
            pass
        except KeyboardInterrupt as error:
            raise ExchangeInterrupted(replies) from error
        finally:
            for connection in connections.values():
                with contextlib.suppress(OSError):  # not connected, or not any more
                    connection.shutdown(socket.SHUT_RDWR)
                connection.close()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        return replies


def expiry_of(deadline: float | None) -> int:
    """When a request that is sent now expires, in whole seconds since 1970, rounded up; 0 is never."""
    return 0 if deadline is None else int(time.time() + deadline) + 1
