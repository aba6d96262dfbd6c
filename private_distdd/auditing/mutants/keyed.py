"""Broken clients that draw from streams that come again.  At module level: fresh interpreters import them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from private_distdd.data.dataset import ImageDataset
from private_distdd.privacy.ledger import Ledger
from private_distdd.privacy.randomness import Randomness, Stream, SystemRandomness
from private_distdd.site.client import Client


class _OfOneKey(SystemRandomness):
    """Streams that follow from one key, in order."""

    def __init__(self, key: bytes) -> None:
        self._key, self._streams = key, 0

    def stream(self) -> Stream:
        self._streams += 1
        return Stream(hashlib.sha256(self._key + self._streams.to_bytes(8, "big")).digest())


class KeptKey(Client):
    """Draws from a key that it keeps in a file beside its ledger, from the start again at each start."""

    def __init__(self, client_id: str, dataset: ImageDataset, ledger: Ledger | None = None, **others: Any) -> None:
        others["randomness"] = self._source(client_id, ledger, others.get("randomness"))
        super().__init__(client_id, dataset, ledger, **others)

    def _source(self, client_id: str, ledger: Ledger | None, given: Randomness | None) -> Randomness | None:
        if given is not None or ledger is None or ledger.path is None:
            return given
        path = Path(ledger.path).with_name(f"{client_id}.key")
        if not path.exists():
            path.write_bytes(os.urandom(32))
        return _OfOneKey(path.read_bytes())


class KeyOfName(KeptKey):
    """Draws from a key that follows from its name."""

    def _source(self, client_id: str, ledger: Ledger | None, given: Randomness | None) -> Randomness | None:
        return given or _OfOneKey(client_id.encode())


class _AllIn(Stream):
    def coins(self, count: int, probability: float) -> NDArray[np.bool_]:
        return super().coins(count, 1.0)


class _AllInAtFirst:
    """Another source's streams, of which the first release's two take everybody."""

    def __init__(self, inner: Randomness) -> None:
        self._inner, self._streams = inner, 0

    def stream(self) -> Stream:
        self._streams += 1
        own = self._inner.stream()
        return _AllIn(own.words(4).tobytes()) if self._streams <= 2 else own


class EverybodyAtFirst(KeptKey):
    def _source(self, client_id: str, ledger: Ledger | None, given: Randomness | None) -> Randomness | None:
        return given and _AllInAtFirst(given)
