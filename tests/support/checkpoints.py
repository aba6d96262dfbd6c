"""What the tests of server/checkpoint share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from wiring import PerClient

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.engines.in_process import InProcess
from private_distdd.methods.distdd import DistDD
from private_distdd.privacy.plan import Privacy
from private_distdd.release.release import Release
from private_distdd.server.checkpoint import STATE
from private_distdd.site.client import Client
from private_distdd.wire.refusal import Refusal

NAMES = ("a", "b", "c")
PLAIN = DistDD(ipc=2, rounds=4, model="mlp", model_args={"width": 8, "depth": 1}, matching_steps=2)
PRIVATE = dataclasses.replace(PLAIN, privacy=Privacy(noise_multiplier=2.0, sample_rate=0.5))
WITH_MEMORY: dict[str, Any] = {"memory": 2, "network_steps": 2, "reinit_every": 2}
MakeImages = Callable[..., ImageDataset]
Federation = Callable[..., list[Client]]


class Killed(BaseException):
    """Stands for the death of the process: nothing in the library catches it."""


class Mortal(PerClient):
    """Dies at the n-th query, before the client sees it or after it answered; notes what was asked and sent."""

    def __init__(self, clients: Sequence[Client], at: int | None = None, *, answered: bool = False) -> None:
        super().__init__(clients)
        self.queries: list[tuple[str, bytes]] = []
        self.messages: list[bytes] = []
        self._at, self._answered = at, answered

    def ask(self, client_id: str, query: bytes) -> bytes:
        self.queries.append((client_id, query))
        last = len(self.queries) == self._at
        if last and not self._answered:
            raise Killed
        data = super().ask(client_id, query)
        self.messages.append(data)
        if last:
            raise Killed
        return data


def ledgers(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.jsonl"))}


def fit(method: DistDD, transport: InProcess, info: DatasetInfo, folder: Path) -> Release:
    return method.fit(transport, info=info, checkpoint=folder, resume=(folder / STATE).exists())


class Refusing(Mortal):
    """Clients that answer "refused" from some query of theirs on, or do not enrol."""

    def __init__(self, clients: Sequence[Client], refusing: dict[str, int], at: int | None = None) -> None:
        super().__init__(clients, at)
        self._left = refusing
        self.invited: list[str] = []

    def enroll(self, client_id: str, run: bytes) -> bytes:
        self.invited.append(client_id)
        if self._left.get(client_id) == -1:
            return Refusal("refused").to_bytes()
        return super().enroll(client_id, run)

    def ask(self, client_id: str, query: bytes) -> bytes:
        data = super().ask(client_id, query)
        if client_id in self._left:
            self._left[client_id] -= 1
            if self._left[client_id] < 0:
                return Refusal("refused").to_bytes()
        return data
