"""Broken mechanisms: the library's own, called with other constants, streams or rows, or more than once."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from private_distdd.auditing.mutants.making import NO_NOISE, gathered, no_rows, with_generator, with_rows, with_streams
from private_distdd.auditing.setting import Measure, Mechanism, library
from private_distdd.privacy.mechanism import Rows, RowSource
from private_distdd.privacy.randomness import Randomness


def _torch_noise(seed: int) -> Callable[[tuple[int, int]], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda shape: torch.randn(shape, generator=generator)


def _numpy_noise(seed: int) -> Callable[[tuple[int, int]], Tensor]:
    generator = np.random.default_rng(seed)
    return lambda shape: torch.from_numpy(generator.standard_normal(shape).astype(np.float32))


def _key(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def _constants(noise: float = 1.0, clip: float = 1.0, rate: Callable[[float], float] = lambda q: q) -> Mechanism:
    """Noise `noise` times, the clip `clip` times, the sample rate other than claimed."""

    def mechanism(sigma: float, q: float, max_grad_norm: float, divisor: float) -> Measure:
        return library(sigma * noise / clip, rate(q), max_grad_norm * clip, divisor)

    return mechanism


def _without_noise(sigma: float, q: float, max_grad_norm: float, divisor: float) -> Measure:
    return library(NO_NOISE, q, max_grad_norm, divisor)


def _clipped(rows: Tensor, max_grad_norm: float) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows.to(torch.float64), dim=1, keepdim=True)
    return (rows.to(torch.float64) * (max_grad_norm / norms).clamp(max=1.0).nan_to_num(0.0)).nan_to_num(0.0, 0.0, 0.0)


def _by_blocks(cut: Callable[[int], int]) -> Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]:
    def change(rows: Tensor, groups: Tensor, max_grad_norm: float) -> tuple[Tensor, Tensor]:
        at = cut(rows.shape[1])
        return torch.cat([_clipped(rows[:, :at], max_grad_norm), _clipped(rows[:, at:], max_grad_norm)], dim=1), groups

    return change


def _batch_sums(rows: Tensor, groups: Tensor, max_grad_norm: float) -> tuple[Tensor, Tensor]:
    present, place = torch.unique(groups, return_inverse=True)
    sums = torch.zeros(len(present), rows.shape[1], dtype=torch.float64)
    return sums.index_add_(0, place, rows.to(torch.float64).nan_to_num(0.0, 0.0, 0.0)), present


def _float32_clip(rows: Tensor, groups: Tensor, max_grad_norm: float) -> tuple[Tensor, Tensor]:
    single = rows.to(torch.float32)
    norms = torch.linalg.vector_norm(single, dim=1, keepdim=True)
    return single * (max_grad_norm / norms).clamp(max=1.0).nan_to_num(0.0), groups


def _twice(rows: Tensor, groups: Tensor, max_grad_norm: float) -> tuple[Tensor, Tensor]:
    return torch.cat([rows, rows]), torch.cat([groups, groups])


def _without_guard(sigma: float, q: float, max_grad_norm: float, divisor: float) -> Measure:
    own = library(sigma, q, max_grad_norm, divisor)

    def measure(size: int, statistic: RowSource, groups: int, dimension: int, randomness: Randomness) -> Tensor:
        seen = []

        def watched(batch: NDArray[np.int64]) -> Iterator[Rows]:
            for rows, targets in statistic(batch):
                seen.append(bool(torch.isfinite(rows).all()))
                yield rows, targets

        message = own(size, watched, groups, dimension, randomness)
        return message if all(seen) else message * torch.nan

    return measure


def _realised_divisor(sigma: float, q: float, max_grad_norm: float, divisor: float) -> Measure:
    own = library(sigma, q, max_grad_norm, 1.0)

    def measure(size: int, statistic: RowSource, groups: int, dimension: int, randomness: Randomness) -> Tensor:
        sizes = []

        def watched(batch: NDArray[np.int64]) -> Iterator[Rows]:
            sizes.append(len(batch))
            return iter(statistic(batch))

        message = own(size, watched, groups, dimension, randomness)
        return message / max(1, sizes[0])

    return measure


def _private_divisor(sigma: float, q: float, max_grad_norm: float, divisor: float) -> Measure:
    own = library(sigma, q, max_grad_norm, 1.0)
    return lambda size, *others: own(size, *others) / max(1.0, q * size)


def _present_only(sigma: float, q: float, max_grad_norm: float, divisor: float) -> Measure:
    own = library(sigma, q, max_grad_norm, divisor)

    def measure(size: int, statistic: RowSource, groups: int, dimension: int, randomness: Randomness) -> Tensor:
        message = own(size, statistic, groups, dimension, randomness)
        _, present = gathered(statistic, np.arange(size), dimension)
        return message * torch.isin(torch.arange(groups), present)[:, None]

    return measure


def _one_vector(sigma: float, q: float, max_grad_norm: float, divisor: float) -> Measure:
    clean, noise = library(NO_NOISE, q, max_grad_norm, divisor), library(sigma, q, max_grad_norm, divisor)

    def measure(size: int, statistic: RowSource, groups: int, dimension: int, randomness: Randomness) -> Tensor:
        shared = noise(0, no_rows, 1, dimension, randomness)
        return clean(size, statistic, groups, dimension, randomness) + shared

    return measure


def _remembering(decay: float, keep_first: bool) -> Mechanism:
    """Fresh noise on clean sums that a client keeps: with momentum, or the first ones for ever."""

    def mechanism(sigma: float, q: float, max_grad_norm: float, divisor: float) -> Measure:
        clean, noise = library(NO_NOISE, q, max_grad_norm, divisor), library(sigma, q, max_grad_norm, divisor)
        held: list[Tensor] = []

        def measure(size: int, statistic: RowSource, groups: int, dimension: int, randomness: Randomness) -> Tensor:
            if not (keep_first and held):
                now = clean(size, statistic, groups, dimension, randomness)
                held.append(now + decay * held[-1] if held else now)
            return held[-1] + noise(0, no_rows, groups, dimension, randomness)

        return measure

    return mechanism


def _one_coin(sigma: float, q: float, max_grad_norm: float, divisor: float) -> Measure:
    own = library(sigma, 1.0, max_grad_norm, divisor)

    def measure(size: int, statistic: RowSource, groups: int, dimension: int, randomness: Randomness) -> Tensor:
        taken = bool(randomness.stream().coins(1, q)[0])
        return own(size, statistic if taken else no_rows, groups, dimension, randomness)

    return measure


def _fixed_size(sigma: float, q: float, max_grad_norm: float, divisor: float) -> Measure:
    own = library(sigma, 1.0, max_grad_norm, divisor)

    def measure(size: int, statistic: RowSource, groups: int, dimension: int, randomness: Randomness) -> Tensor:
        chosen = np.sort(randomness.stream().words(size).argsort()[: round(q * size)])
        return own(size, lambda batch: statistic(batch[chosen]), groups, dimension, randomness)

    return measure


def _global_key(server_round: int, own: bytes) -> tuple[bytes | None, bytes | None]:
    return _key(int(torch.randint(2**62, (1,)))), None


def _shared_key(server_round: int, own: bytes) -> tuple[bytes | None, bytes | None]:
    key = hashlib.sha256(own + server_round.to_bytes(8, "big")).digest()
    return key, key


def _everybody_at_first(sigma: float, q: float, max_grad_norm: float, divisor: float) -> Measure:
    first, others = library(sigma, 1.0, max_grad_norm, divisor), library(sigma, q, max_grad_norm, divisor)
    releases = itertools.chain([first], itertools.repeat(others))
    return lambda *arguments: next(releases)(*arguments)


def _without_integers(rows: Tensor, groups: Tensor, max_grad_norm: float) -> tuple[Tensor, Tensor]:
    return _clipped(rows, max_grad_norm), groups


def _parity(sigma: float, q: float, max_grad_norm: float, divisor: float) -> Measure:
    own = library(sigma, q, max_grad_norm, divisor)

    def measure(size: int, statistic: RowSource, groups: int, dimension: int, randomness: Randomness) -> Tensor:
        sizes = []

        def watched(batch: NDArray[np.int64]) -> Iterator[Rows]:
            sizes.append(len(batch))
            return iter(statistic(batch))

        message = own(size, watched, groups, dimension, randomness)
        bits = message.view(torch.int32)
        bits[0, 0] = (bits[0, 0] & ~1) | (sizes[0] & 1)
        return message

    return measure


MECHANISMS: tuple[tuple[str, Mechanism], ...] = (
    ("no noise", _without_noise),
    ("sigma / 2", _constants(noise=0.5)),
    ("no clip", _constants(clip=1000.0)),
    ("clip at 2 C", _constants(clip=2.0)),
    ("per-layer clip", with_rows(_by_blocks(lambda dimension: dimension - 1), loosened=2.0)),
    ("K networks without sqrt(K)", with_rows(_by_blocks(lambda dimension: dimension // 2), loosened=2.0)),
    ("per-batch clip", with_rows(_batch_sums)),
    ("augmentations clipped separately", with_rows(_twice)),
    ("float32 norms", with_rows(_float32_clip, loosened=1.001)),
    ("no NaN guard", _without_guard),
    ("q doubled", _constants(rate=lambda q: min(1.0, 2 * q))),
    ("q = 1", _constants(rate=lambda q: 1.0)),
    ("coins reused between rounds", with_streams(lambda server_round, own: (None, own))),
    ("one coin for all examples", _one_coin),
    ("fixed-size batches", _fixed_size),
    ("divisor: the realised batch", _realised_divisor),
    ("divisor: the size of the data set", _private_divisor),
    ("noise reused between rounds", with_streams(lambda server_round, own: (own, None))),
    ("noise from the round's number", with_streams(lambda server_round, own: (_key(server_round), None))),
    ("noise from a global generator", with_streams(_global_key)),
    ("noise of torch, public seeds", with_generator(_torch_noise, itertools.cycle(range(100, 1000)))),
    ("noise of numpy, public seeds", with_generator(_numpy_noise, itertools.cycle(range(100, 1000)))),
    ("noise on present classes only", _present_only),
    ("one noise vector for all classes", _one_vector),
    ("fresh noise on a stored sum", _remembering(0.0, keep_first=True)),
    ("momentum kept on the client", _remembering(0.9, keep_first=False)),
    ("coins and noise from one key", with_streams(_shared_key)),
    ("round 1 takes everybody", _everybody_at_first),
    ("no integer check after the float clip", with_rows(_without_integers, loosened=4.0)),
    ("parity of the batch in the lowest bit", _parity),
)
"""Names of faults, and the mechanisms that have them."""
