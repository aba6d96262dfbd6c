"""Bytes from a socket, so many and in time, at both ends of it.  No torch in here."""

from __future__ import annotations

import math
import socket
import time

_PART = 1 << 20  # bytes taken at a time: memory grows with what came, not with what was announced


def received(connection: socket.socket, length: int, end: float | None = None, silence: float = math.inf) -> bytes:
    """So many bytes.

    Args:
        connection: they come from.
        length: how many.
        end: of the wait, by the monotonic clock; None waits for as long as the other end lives.
        silence: seconds without a byte after which the other end dawdles.

    Raises:
        OSError: the other end hung up, dawdles, or is late.
    """
    data = bytearray()
    while len(data) < length:
        limit(connection, end, silence)
        part = connection.recv(min(_PART, length - len(data)))
        if not part:
            raise ConnectionError("the other end hung up")
        data += part
    return bytes(data)


def limit(connection: socket.socket, end: float | None, silence: float = math.inf) -> None:
    """Let the next operation take no longer.

    Raises:
        TimeoutError: the end has passed.
    """
    left = math.inf if end is None else end - time.monotonic()
    if left <= 0:
        raise TimeoutError("the other end is late")
    if min(left, silence) < math.inf:
        connection.settimeout(min(left, silence))
