"""Broken clients that tell the size of their batch.  At module level: fresh interpreters import them."""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from private_distdd.auditing.mutants.keyed import KeptKey
from private_distdd.privacy.ledger import Ledger
from private_distdd.privacy.randomness import Randomness, Stream


class _Told(Stream):
    """Tells how many of its coins fell."""

    tell: Callable[[str], None]

    def coins(self, count: int, probability: float) -> NDArray[np.bool_]:
        out = super().coins(count, probability)
        self.tell(f"a batch of {int(out.sum())}")
        return out


class _Listening:
    """Another source's streams, which tell."""

    def __init__(self, inner: Randomness, tell: Callable[[str], None]) -> None:
        self._inner, self._tell = inner, tell

    def stream(self) -> Stream:
        own = _Told(self._inner.stream().words(4).tobytes())
        own.tell = self._tell
        return own


class Logging(KeptKey):
    """Tells the server's log the size of its batch, where it keeps a ledger file: other audits stay quiet."""

    def tell(self, text: str) -> None:
        logging.getLogger("private_distdd").debug(text)

    def _source(self, client_id: str, ledger: Ledger | None, given: Randomness | None) -> Randomness | None:
        return given if given is None or ledger is None else _Listening(given, self.tell)


class LoggingAtRoot(Logging):
    def tell(self, text: str) -> None:
        logging.getLogger().debug(text)


class Printing(Logging):
    def tell(self, text: str) -> None:
        print(text)


class OnDescriptor(Logging):
    def tell(self, text: str) -> None:
        os.write(2, text.encode() + b"\n")


class Warns(Logging):
    def tell(self, text: str) -> None:
        warnings.warn(text, RuntimeWarning, stacklevel=2)


class Filing(Logging):
    def tell(self, text: str) -> None:
        (Path(tempfile.gettempdir()) / "private_distdd.batch").write_text(text)
