"""The library with one thing broken.

None of them copies the mechanism: each is made of the library's own pieces, and breaks one thing only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from private_distdd.auditing.mutants.clients import CLIENTS
from private_distdd.auditing.mutants.filters import FILTERS
from private_distdd.auditing.mutants.mechanisms import MECHANISMS
from private_distdd.auditing.mutants.streams import STREAMS
from private_distdd.auditing.setting import Measure, Mechanism, library
from private_distdd.data.dataset import ImageDataset
from private_distdd.privacy.accountants import RdpFilter
from private_distdd.privacy.mechanism import RowSource
from private_distdd.privacy.randomness import Randomness, Stream
from private_distdd.site.client import Client


@dataclass(frozen=True)
class Mutant:
    """The library, but for one thing.

    Args:
        name: of the fault.
        mechanism: what makes a message of a batch's rows.
        stream: the class of all streams of noise and coins.
        client: who answers.
        filter: what guards an adaptive budget.
    """

    name: str
    mechanism: Mechanism = library
    stream: type[Stream] = Stream
    client: type[Client] = Client
    filter: type[RdpFilter] = RdpFilter

    @property
    def messages(self) -> Mechanism:
        """The mechanism with these streams: what the gates of messages attack."""
        return self.mechanism if self.stream is Stream else _with_stream(self.mechanism, self.stream)

    @property
    def make(self) -> Callable[..., Client]:
        """The client with these streams: what the gates of clients attack.

        Where a gate lets the operating system draw, the streams are the library's: a client charges any other source as
        not private, and would be caught for that alone.
        """
        if self.stream is Stream:
            return self.client

        def client(client_id: str, dataset: ImageDataset, *others: Any, **named: Any) -> Client:
            if "randomness" in named:
                named["randomness"] = _Restreamed(named["randomness"], self.stream)
            return self.client(client_id, dataset, *others, **named)

        return client

    @property
    def parts(self) -> frozenset[str]:
        """Which of "messages", "clients" and "filter" the fault can show in; all of them for the library itself."""
        found = set()
        if self.mechanism is not library or self.stream is not Stream:
            found.add("messages")
        if self.client is not Client or self.stream is not Stream:
            found.add("clients")
        if self.filter is not RdpFilter:
            found.add("filter")
        return frozenset(found or {"messages", "clients", "filter"})


class _Restreamed:
    """Another source's streams, read by another class.

    Args:
        inner: where the keys come from.
        stream: that class.
    """

    def __init__(self, inner: Randomness, stream: type[Stream]) -> None:
        self._inner, self._stream = inner, stream

    def stream(self) -> Stream:
        """The next stream."""
        return self._stream(self._inner.stream().words(4).tobytes())


def _with_stream(mechanism: Mechanism, stream: type[Stream]) -> Mechanism:
    def changed(sigma: float, q: float, max_grad_norm: float, divisor: float) -> Measure:
        own = mechanism(sigma, q, max_grad_norm, divisor)

        def measure(size: int, statistic: RowSource, groups: int, dimension: int, randomness: Randomness) -> Tensor:
            return own(size, statistic, groups, dimension, _Restreamed(randomness, stream))

        return measure

    return changed


MUTANTS: tuple[Mutant, ...] = (
    *(Mutant(name, mechanism=mechanism) for name, mechanism in MECHANISMS),
    *(Mutant(name, stream=stream) for name, stream in STREAMS),
    *(Mutant(name, client=client) for name, client in CLIENTS),
    *(Mutant(name, filter=own) for name, own in FILTERS),
)
CORRECT = Mutant("correct")
