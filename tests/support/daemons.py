"""Daemons in threads of the tests' own process, and what hostile peers send them."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator
from pathlib import Path

from private_distdd.site.client import Client
from private_distdd.site.daemon import Daemon
from private_distdd.wire.engine import ASK, ENROL, LEDGER
from private_distdd.wire.frame import REQUEST_BYTES, REQUEST_HEADER, request_frame


@contextlib.contextmanager
def serving(folder: Path, *clients: Client) -> Iterator[dict[str, Path]]:
    """A daemon for each client; yields their sockets."""
    daemons = {client.client_id: Daemon(client, folder / f"{client.client_id}.sock") for client in clients}
    threads = [threading.Thread(target=daemon.serve) for daemon in daemons.values()]
    for thread in threads:
        thread.start()
    try:
        yield {name: folder / f"{name}.sock" for name in daemons}
    finally:
        for daemon in daemons.values():
            daemon.stop()
        for thread in threads:
            thread.join(timeout=60)
            assert not thread.is_alive()


def hostile_frames(good: bytes, count: int) -> Iterator[bytes]:
    """Noise, headers with one field wrong, sound frames around noise, and queries, of which one is good, changed."""
    draw = random.Random(4)
    for _ in range(count):
        operation = draw.choice([*REQUEST_BYTES])
        match draw.randrange(5):
            case 0:
                yield draw.randbytes(draw.randrange(200))
            case 1:
                frame = bytearray(request_frame(operation, b""))
                frame[draw.randrange(REQUEST_HEADER)] = draw.randrange(256)
                yield bytes(frame)
            case 2:
                yield request_frame(operation, draw.randbytes(draw.randrange(100)))
            case 3:
                changed = bytearray(good)
                for _ in range(draw.randrange(1, 4)):
                    changed[draw.randrange(len(changed))] = draw.randrange(256)
                yield request_frame(draw.choice([ASK, ENROL, LEDGER]), bytes(changed))
            case _:
                yield request_frame(operation, good)[: draw.randrange(REQUEST_HEADER + len(good))]
