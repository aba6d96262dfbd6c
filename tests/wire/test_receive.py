"""So many bytes, in time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from private_distdd.wire.receive import received


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    here, there = socket.socketpair(socket.AF_UNIX)
    with here, there:
        yield here, there


def test_bytes_come_whole_however_they_are_cut(ends: tuple[socket.socket, socket.socket]) -> None:
    here, there = ends
    for part in (b"a", b"bc", b"def", b"more"):
        there.send(part)
    assert received(here, 6, time.monotonic() + 60, 60) == b"abcdef"
    assert received(here, 4) == b"more"
    assert received(here, 0) == b""


def test_who_hangs_up_is_told_from_who_is_slow(ends: tuple[socket.socket, socket.socket]) -> None:
    here, there = ends
    there.send(b"ab")
    with pytest.raises(TimeoutError):
        received(here, 3, silence=0.05)
    with pytest.raises(TimeoutError, match="late"):
        received(here, 3, end=time.monotonic() - 1)
    there.close()
    with pytest.raises(ConnectionError, match="hung up"):
        received(here, 3)


def test_who_drips_is_not_waited_for_beyond_the_end(ends: tuple[socket.socket, socket.socket]) -> None:
    here, there = ends
    stopped = threading.Event()

    def drip() -> None:
        while not stopped.wait(0.02):
            there.send(b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        with pytest.raises(TimeoutError):
            received(here, 1000, end=time.monotonic() + 0.3, silence=60)
    finally:
        stopped.set()
        thread.join()
