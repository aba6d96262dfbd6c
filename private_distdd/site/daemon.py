"""A site of its own process: one client behind a UNIX socket, one request at a time, until somebody ends it."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import selectors
import signal
import socket
import stat
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from private_distdd import __version__
from private_distdd.errors import ConfigurationError, QueryRefusedError
from private_distdd.site.client import Client
from private_distdd.site.endpoint import Endpoint
from private_distdd.wire.frame import PING, REQUEST_HEADER, Presence, request_header, response_frame
from private_distdd.wire.receive import received

SECONDS = 10.0  # of silence after which a peer is hung up on; a whole request has as many, and one more a MiB
_LONGEST_PATH = 107  # bytes that the system keeps of a socket's name


class Daemon:
    """Listens at a socket for this user's processes; whoever else connects is hung up on.

    Args:
        client: who answers.
        path: of the socket, in a folder of this user's that nobody else may enter.

    Raises:
        ConfigurationError: the folder is none, or open to others; somebody listens there already; the path is too long
            or taken by another file; or this system does not say who connects.

    Formal guarantee: what leaves through the socket are `Endpoint`'s replies, the client's name, the library's version,
    and empty responses to what is no request.
    """

    def __init__(self, client: Client, path: str | os.PathLike[str]) -> None:
        self._client, self._endpoint, self._path = client, Endpoint(client), Path(path)
        self._log = logging.getLogger(f"private_distdd_client.{client.client_id}")
        self._listener = _listener(self._path)
        self._wake, self._woken = socket.socketpair()
        for end in (self._wake, self._woken):
            end.setblocking(False)

    def serve(self) -> None:
        """Answer until `stop`, or until this process is asked to end."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            try:
                while not any(key.fileobj is self._woken for key, _ in selector.select()):
                    try:
                        connection, _ = self._listener.accept()
                    except OSError as error:  # whoever knocked has gone, or this process has too many files open
                        self._log.warning("nobody was let in: %s", error)
                        continue
                    self._answer(connection)
            finally:
                for end in (self._listener, self._wake, self._woken):
                    end.close()
                self._path.unlink(missing_ok=True)

    def stop(self) -> None:
        """End `serve` after the answer under way; may be called from anywhere, and again."""
        with contextlib.suppress(OSError):  # it has ended, or was told so often enough
            self._wake.send(b"\0")

    @contextlib.contextmanager
    def ended_by_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT end `serve` after the answer under way; a second one ends the process at once."""

        def ended(number: int, _: FrameType | None) -> None:
            signal.signal(number, before[number])
            self.stop()

        before = {int(number): signal.signal(number, ended) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                if (peer := _peer(connection)) != os.getuid():
                    self._log.error("hung up on user %d", peer)
                    return
                response = self._response(connection)
                connection.settimeout(_seconds(len(response)))
                connection.sendall(response_frame(response))
            except OSError as error:  # it hung up, or dawdled; an answer waits to be asked for again
                self._log.info("a connection ended early: %s", error)
            except Exception as error:  # memory, for example: the next request may be a better one
                self._log.error("a request failed: %s", error, exc_info=error)

    def _response(self, connection: socket.socket) -> bytes:
        """The reply to the request that comes; empty for what is none, or came too late."""
        try:
            header = request_header(self._received(connection, REQUEST_HEADER))
            request = header.check(self._received(connection, header.length))
        except QueryRefusedError as error:
            self._log.warning("no request: %s", error)
            return b""
        late = time.time() - header.expiry
        if header.expiry and late > 0:
            self._log.warning("%s came %.0f s too late", header.operation, late)
            return b""
        if header.operation == PING:
            return Presence(self._client.client_id, __version__).to_bytes()
        began = time.monotonic()
        response = self._endpoint.handle(header.operation, request)
        seconds = time.monotonic() - began
        self._log.info("%s: %d bytes for %d in %.1f s", header.operation, len(response), len(request), seconds)
        return response

    @staticmethod
    def _received(connection: socket.socket, length: int) -> bytes:
        return received(connection, length, time.monotonic() + _seconds(length), SECONDS)


def _listener(path: Path) -> socket.socket:
    """A socket that listens at the path, for this user alone."""
    if not hasattr(socket, "SO_PEERCRED"):
        raise ConfigurationError(
            "a system that does not say who connects to a socket", "Linux", "Run the site in a Linux container."
        )
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise ConfigurationError(f"{path}", f"a socket's path of at most {_LONGEST_PATH} bytes", "Move it upwards.")
    try:
        folder = os.stat(path.parent)
    except OSError as error:
        raise ConfigurationError(f"{path.parent}: {error.strerror}", "a folder that exists", "Make it.") from error
    if folder.st_uid != os.getuid() or stat.S_IMODE(folder.st_mode) & 0o077 or not stat.S_ISDIR(folder.st_mode):
        raise ConfigurationError(
            f"{path.parent} of user {folder.st_uid}, mode {stat.S_IMODE(folder.st_mode):04o}",
            "a folder of your own that nobody else may enter",
            f"chmod 700 {path.parent}, or put the socket into a folder of its own.",
        )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        before = os.umask(0o177)
        try:
            listener.bind(os.fspath(path))
        finally:
            os.umask(before)
        listener.listen()
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ConfigurationError(f"{path}: {error.strerror}", "a free place for a socket", "Choose another.") from error
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    """Remove the socket of a daemon that was killed; nothing else."""
    with contextlib.suppress(FileNotFoundError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise ConfigurationError(f"{path}, which is no socket", "a free place for one", "Choose another.")
        probe.settimeout(SECONDS)
        failure = probe.connect_ex(os.fspath(path))
        if failure != errno.ECONNREFUSED:
            raise ConfigurationError(
                f"{path}, where somebody listens", "one site a socket", "End the other one, or choose another."
            )
        path.unlink()


def _peer(connection: socket.socket) -> int:
    """Who connected: the user's number."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


def _seconds(length: int) -> float:
    return SECONDS + length / (1 << 20)
