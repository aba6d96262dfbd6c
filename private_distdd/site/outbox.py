"""The last message of a client, durable beside its ledger."""

from __future__ import annotations

from pathlib import Path

from private_distdd.files import write_file


class Outbox:
    """The last message of a client, durable beside its ledger, so that a lost reply is repeated and not paid twice."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._held: tuple[str, bytes] | None = None

    def put(self, name: str, data: bytes) -> None:
        if self._path is None:
            self._held = (name, data)
        else:
            write_file(self._path, data, mode=0o600)

    def get(self, name: str) -> bytes | None:
        if self._path is None:
            return self._held[1] if self._held is not None and self._held[0] == name else None
        return self._path.read_bytes() if self._path.exists() else None
