"""What broken mechanisms are made of: the library's own, on other rows, another generator or other streams."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from private_distdd.auditing.setting import Measure, Mechanism, library
from private_distdd.privacy.mechanism import Rows, RowSource
from private_distdd.privacy.randomness import Randomness, Stream

NO_NOISE = 2.0**-30  # a sigma whose noise rounds to zero lattice units


def no_rows(batch: NDArray[np.int64]) -> Iterator[Rows]:
    return iter(())


def gathered(statistic: RowSource, batch: NDArray[np.int64], dimension: int) -> tuple[Tensor, Tensor]:
    """All rows [n, d] and groups [n] of a batch at once, without padding."""
    parts = [(rows[: len(groups)], groups) for rows, groups in statistic(batch)]
    if not parts:
        return torch.zeros(0, dimension), torch.zeros(0, dtype=torch.int64)
    return torch.cat([rows for rows, _ in parts]), torch.cat([groups for _, groups in parts])


def with_rows(
    change: Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]], loosened: float = 1.0, batch_rate: float = 0.0
) -> Mechanism:
    """The library's mechanism on changed rows, its own clip loosened by a factor; noise and scale stay as claimed.

    Args:
        change: from rows, groups and C to other rows and groups.
        loosened: the library's clip is at this many C.
        batch_rate: the library's q, where it is not the claimed one.
    """

    def mechanism(sigma: float, q: float, max_grad_norm: float, divisor: float) -> Measure:
        own = library(sigma / loosened, batch_rate or q, loosened * max_grad_norm, divisor)

        def measure(size: int, statistic: RowSource, groups: int, dimension: int, randomness: Randomness) -> Tensor:
            def changed(batch: NDArray[np.int64]) -> Iterator[Rows]:
                yield change(*gathered(statistic, batch, dimension), max_grad_norm)

            return own(size, changed, groups, dimension, randomness)

        return measure

    return mechanism


class _Streams:
    """Streams of which some are replaced: the mechanism asks first for the noise's stream, then for the coins'.

    Args:
        noise, coins: the key in place of a fresh one, or None for a fresh one.
        inner: where fresh streams come from.
    """

    def __init__(self, inner: Randomness, noise: bytes | None = None, coins: bytes | None = None) -> None:
        self._inner, self._keys = inner, [noise, coins]

    def stream(self) -> Stream:
        key = self._keys.pop(0)
        return self._inner.stream() if key is None else Stream(key)


def with_generator(noise: Callable[[int], Callable[[tuple[int, int]], Tensor]], seeds: Iterable[int]) -> Mechanism:
    """Noise of a generator that is none of secrecy's, each client's under the next of `seeds`."""
    clients = iter(seeds)

    def mechanism(sigma: float, q: float, max_grad_norm: float, divisor: float) -> Measure:
        clean, draw = library(NO_NOISE, q, max_grad_norm, divisor), noise(next(clients))

        def measure(size: int, statistic: RowSource, groups: int, dimension: int, randomness: Randomness) -> Tensor:
            drawn = draw((groups, dimension)) * (sigma * max_grad_norm / divisor)
            return clean(size, statistic, groups, dimension, randomness) + drawn

        return measure

    return mechanism


def with_streams(keys: Callable[[int, bytes], tuple[bytes | None, bytes | None]]) -> Mechanism:
    """The library's mechanism on keys of noise and coins that follow from the round and one fresh key a client."""

    def mechanism(sigma: float, q: float, max_grad_norm: float, divisor: float) -> Measure:
        own = library(sigma, q, max_grad_norm, divisor)
        state: dict[str, bytes] = {}
        rounds = iter(range(1 << 30))

        def measure(size: int, statistic: RowSource, groups: int, dimension: int, randomness: Randomness) -> Tensor:
            if "key" not in state:
                state["key"] = randomness.stream().words(4).tobytes()
            noise, coins = keys(next(rounds), state["key"])
            return own(size, statistic, groups, dimension, _Streams(randomness, noise, coins))

        return measure

    return mechanism
