"""Sites on this machine, each a daemon of its own (`private-distdd site run`), reached by their sockets."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping

from private_distdd.engines.relay import through
from private_distdd.errors import ConfigurationError, QueryRefusedError
from private_distdd.wire.engine import ExchangeInterrupted
from private_distdd.wire.frame import request_frame, response_of

AGAIN = 0.2  # seconds until a site that did not listen is knocked at again

_log = logging.getLogger("private_distdd")


class Sites:
    """Site daemons of this machine and this user, asked all at once.

    Who hangs up or comes too late is absent, and so is, without a deadline, who does not listen; with one, a site that
    is just being started has until then.  A site answers the same bytes again for nothing.

    Args:
        sockets: each client's socket, as its owner's configuration says; at least one.

    Raises:
        ConfigurationError: there is none.
    """

    def __init__(self, sockets: Mapping[str, str | os.PathLike[str]]) -> None:
        if not sockets:
            raise ConfigurationError("no sites", "at least one", "Pass Sites({client_id: path of its socket}).")
        self._sockets = {name: os.fspath(path) for name, path in sockets.items()}
        self.came: Callable[[str], object] = lambda name: None  # see `Telling`

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
        asking = _Asking(deadline)
        replies: dict[str, bytes | None] = dict.fromkeys(requests)
        threads = [
            threading.Thread(target=asking.ask, args=(name, self._sockets[name], operation, request), daemon=True)
            for name, request in requests.items()
        ]
        wanted = len(requests) if enough is None else enough
        try:
            for thread in threads:
                thread.start()
            for _ in requests:
                if sum(reply is not None for reply in replies.values()) >= wanted:
                    break
                name, reply = asking.came.get(timeout=asking.left())
                replies[name] = reply
                if reply is not None:
                    self.came(name)
        except queue.Empty:
            pass
        except KeyboardInterrupt as error:
            raise ExchangeInterrupted(replies) from error
        finally:
            asking.stop()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        return replies


class _Asking:
    """One exchange: what its threads share.

    Args:
        deadline: see `Engine.exchange`.
    """

    def __init__(self, deadline: float | None) -> None:
        self._end = None if deadline is None else time.monotonic() + deadline
        self._expiry = expiry_of(deadline)
        self._lock, self._over = threading.Lock(), threading.Event()
        self._connections: dict[str, socket.socket] = {}
        self.came: queue.SimpleQueue[tuple[str, bytes | None]] = queue.SimpleQueue()

    def left(self) -> float | None:
        """Seconds until the deadline; None without one."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def ask(self, name: str, path: str, operation: str, request: bytes) -> None:
        """Put the client's reply into the queue, or None: it is absent."""
        reply, frame = None, request_frame(operation, request, self._expiry)
        try:
            while (connection := self._connection(name)) is not None:
                try:
                    with connection:
                        reply = response_of(through(connection, path, frame, self.left()))
                    break
                except (FileNotFoundError, ConnectionRefusedError):  # nobody listens: perhaps it is being started
                    if not self.left():
                        raise
                    self._over.wait(AGAIN)
        except (OSError, QueryRefusedError) as error:
            _log.info("client %s is absent: %s", name, error)
        self.came.put((name, reply))

    def _connection(self, name: str) -> socket.socket | None:
        with self._lock:  # none is made after `stop` has looked at them
            if not self._over.is_set():
                self._connections[name] = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                return self._connections[name]
        return None

    def stop(self) -> None:
        """Nobody is waited for any longer."""
        with self._lock:
            self._over.set()
        for connection in self._connections.values():
            with contextlib.suppress(OSError):  # not connected, or not any more
                connection.shutdown(socket.SHUT_RDWR)


def expiry_of(deadline: float | None) -> int:
    """When a request that is sent now expires, in whole seconds since 1970, rounded up; 0 is never."""
    return 0 if deadline is None else int(time.time() + deadline) + 1
