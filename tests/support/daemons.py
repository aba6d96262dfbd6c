"""Daemons in threads of the tests' own process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from private_distdd.site.client import Client
from private_distdd.site.daemon import Daemon


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
