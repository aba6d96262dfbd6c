"""One frame through a site's socket: what every carrier does at its end.  No torch in here, and nothing is read."""

from __future__ import annotations

import os
import socket
import time

from private_distdd.errors import QueryRefusedError
from private_distdd.wire.frame import RESPONSE_HEADER, response_header
from private_distdd.wire.receive import limit, received


def relay(path: str | os.PathLike[str], frame: bytes, seconds: float | None = None) -> bytes:
    """The response's frame to a request's frame, from the site that listens at `path`.

    Args:
        path: the site's socket.
        frame: see `wire.frame`.
        seconds: how long to wait at most; None waits for as long as the site lives.

    Raises:
        OSError: nobody listens, the site hung up, sent what is no response, or was too late.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        return through(connection, path, frame, seconds)


def through(
    connection: socket.socket, path: str | os.PathLike[str], frame: bytes, seconds: float | None = None
) -> bytes:
    """The same over a socket of the caller's, new and not connected: whoever shuts it down ends the wait."""
    end = None if seconds is None else time.monotonic() + seconds
    limit(connection, end)
    connection.connect(os.fspath(path))
    connection.sendall(frame)
    header = received(connection, RESPONSE_HEADER, end)
    try:
        length = response_header(header).length
    except QueryRefusedError as error:
        raise ConnectionError(str(error)) from error
    return header + received(connection, length, end)
