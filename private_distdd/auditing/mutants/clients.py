"""Broken clients and filters: subclasses of the library's own.  At module level: fresh interpreters import them."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from private_distdd.data.dataset import ImageDataset
from private_distdd.errors import ConfigurationError, QueryRefusedError
from private_distdd.privacy.accountants import RdpFilter
from private_distdd.privacy.events import Event
from private_distdd.privacy.ledger import Ledger
from private_distdd.privacy.mechanism import RowSource, SampledGaussianMechanism
from private_distdd.privacy.randomness import Randomness, Stream, SystemRandomness
from private_distdd.site.client import Client
from private_distdd.wire.message import Message
from private_distdd.wire.query import Query


class _Forgetful(Client):
    """Pays for every other message only."""

    def answer(self, query: Query) -> Message:
        if query.server_round % 2 == 0:
            return super().answer(query)
        kept, self.ledger = self.ledger, Ledger(None)
        try:
            return super().answer(query)
        finally:
            self.ledger = kept


class _FreeRetries(Client):
    """Keeps a ledger in which a try after one that failed is free."""

    def __init__(self, client_id: str, dataset: ImageDataset, ledger: Ledger | None = None, **others: Any) -> None:
        super().__init__(client_id, dataset, _Lenient(None) if ledger is None else ledger, **others)


class _Lenient(Ledger):
    def charge(self, event: Event, message_id: str) -> None:
        if self.status(message_id) != "charged":
            super().charge(event, message_id)


class _Idle(Client):
    """Computes nothing for an empty batch."""

    def answer(self, query: Query) -> Message:
        measure = SampledGaussianMechanism.measure

        def idle(own: SampledGaussianMechanism, size: int, statistic: RowSource, *others: Any) -> Tensor:
            return measure(own, size, lambda batch: statistic(batch) if len(batch) else (), *others)

        with mock.patch.object(SampledGaussianMechanism, "measure", idle):
            return super().answer(query)


class _OfOneKey(SystemRandomness):
    """Streams that follow from one key, in order."""

    def __init__(self, key: bytes) -> None:
        self._key, self._streams = key, 0

    def stream(self) -> Stream:
        self._streams += 1
        return Stream(hashlib.sha256(self._key + self._streams.to_bytes(8, "big")).digest())


class _KeptKey(Client):
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


class _KeyOfName(_KeptKey):
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


class _EverybodyAtFirst(_KeptKey):
    def _source(self, client_id: str, ledger: Ledger | None, given: Randomness | None) -> Randomness | None:
        return given and _AllInAtFirst(given)


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


class _Logging(_KeptKey):
    """Tells the server's log the size of its batch, where it keeps a ledger file: other audits stay quiet."""

    def tell(self, text: str) -> None:
        logging.getLogger("private_distdd").debug(text)

    def _source(self, client_id: str, ledger: Ledger | None, given: Randomness | None) -> Randomness | None:
        return given if given is None or ledger is None else _Listening(given, self.tell)


class _LoggingAtRoot(_Logging):
    def tell(self, text: str) -> None:
        logging.getLogger().debug(text)


class _Printing(_Logging):
    def tell(self, text: str) -> None:
        print(text)


class _OnDescriptor(_Logging):
    def tell(self, text: str) -> None:
        os.write(2, text.encode() + b"\n")


class _Warning(_Logging):
    def tell(self, text: str) -> None:
        warnings.warn(text, RuntimeWarning, stacklevel=2)


class _Filing(_Logging):
    def tell(self, text: str) -> None:
        (Path(tempfile.gettempdir()) / "private_distdd.batch").write_text(text)


class _Holding(Client):
    """A client that knows its own labels, as all do."""

    def __init__(self, client_id: str, dataset: ImageDataset, *others: Any, **named: Any) -> None:
        super().__init__(client_id, dataset, *others, **named)
        self.held = dataset.labels


class _Refusing(_Holding):
    """Refuses where a class is missing."""

    def answer(self, query: Query) -> Message:
        message = super().answer(query)
        if self.info is not None and len(set(self.held.tolist())) < self.info.num_classes:
            raise QueryRefusedError("a batch without some class", "all of them", "Bring more examples.")
        return message


class _Unpadded(_Holding):
    """Computes its rows in micro-batches as large as its data set."""

    def answer(self, query: Query) -> Message:
        with _micro_batches_of(max(1, len(self.held))):
            return super().answer(query)


@contextmanager
def _micro_batches_of(size: int) -> Iterator[None]:
    """The constant MICRO_BATCH is `size` wherever the library has it."""
    modules = [
        module
        for name, module in list(sys.modules.items())
        if name.startswith("private_distdd.") and hasattr(module, "MICRO_BATCH")
    ]
    if not modules:
        raise ConfigurationError("no MICRO_BATCH in the library", "one", "Find out how rows are padded now.")
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(mock.patch.object(module, "MICRO_BATCH", size))
        yield


CLIENTS: tuple[tuple[str, type[Client]], ...] = (
    ("a release that is not charged", _Forgetful),
    ("a computation that failed is free to repeat", _FreeRetries),
    ("an empty batch computes nothing", _Idle),
    ("noise of a key kept over restarts", _KeptKey),
    ("noise of a key made of the client's name", _KeyOfName),
    ("round 1 of a client takes everybody", _EverybodyAtFirst),
    ("size of the batch in the server's log", _Logging),
    ("size of the batch in the root's log", _LoggingAtRoot),
    ("size of the batch printed", _Printing),
    ("size of the batch on descriptor 2", _OnDescriptor),
    ("size of the batch in a warning", _Warning),
    ("size of the batch in a temporary file", _Filing),
    ("a client that refuses where classes are missing", _Refusing),
    ("micro-batches that are not padded", _Unpadded),
)
"""Names of faults, and the clients that have them."""


class _Unsplit(RdpFilter):
    """Gives the whole of delta to each of its orders."""

    def affords(self, spent: Iterable[Event], event: Event) -> bool:
        return _Wider(self.budget_epsilon, self.delta * len(self.orders)).affords(spent, event)


class _Wider(RdpFilter):
    """The orders of a sixth of delta."""

    @property
    def orders(self) -> tuple[float, ...]:
        return RdpFilter(self.budget_epsilon, self.delta / len(super().orders)).orders


class _Late(RdpFilter):
    """Looks at what was spent, and not at what is asked."""

    def affords(self, spent: Iterable[Event], event: Event) -> bool:
        before = list(spent)
        return not before or super().affords(before[:-1], before[-1])


FILTERS: tuple[tuple[str, type[RdpFilter]], ...] = (
    ("the filter's delta is not split over its orders", _Unsplit),
    ("the filter looks at what was spent alone", _Late),
)
"""Names of faults, and the filters that have them."""
