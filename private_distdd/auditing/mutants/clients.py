"""Broken clients: subclasses of the library's own.  At module level: fresh interpreters import them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from private_distdd.auditing.mutants.keyed import EverybodyAtFirst, KeptKey, KeyOfName
from private_distdd.auditing.mutants.telling import Filing, Logging, LoggingAtRoot, OnDescriptor, Printing, Warns
from private_distdd.data.dataset import ImageDataset
from private_distdd.errors import ConfigurationError, QueryRefusedError
from private_distdd.privacy.events import Event
from private_distdd.privacy.ledger import Ledger
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.questions.question import Measurable
from private_distdd.site.client import Client
from private_distdd.site.company import Answering
from private_distdd.site.share import Share
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

    def _measured(self, measured: Measurable, plan: PrivacyPlan, share: Share) -> Answering[Tensor]:
        measuring = super()._measured(measured, plan, share)
        examples = next(measuring)
        try:
            while True:
                empty = torch.zeros(0, measured.dimension)
                examples = measuring.send((yield examples) if examples.size else empty)
        except StopIteration as end:
            values: Tensor = end.value
            return values


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
    ("noise of a key kept over restarts", KeptKey),
    ("noise of a key made of the client's name", KeyOfName),
    ("round 1 of a client takes everybody", EverybodyAtFirst),
    ("size of the batch in the server's log", Logging),
    ("size of the batch in the root's log", LoggingAtRoot),
    ("size of the batch printed", Printing),
    ("size of the batch on descriptor 2", OnDescriptor),
    ("size of the batch in a warning", Warns),
    ("size of the batch in a temporary file", Filing),
    ("a client that refuses where classes are missing", _Refusing),
    ("micro-batches that are not padded", _Unpadded),
)
"""Names of faults, and the clients that have them."""
