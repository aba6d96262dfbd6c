"""Broken streams: the library's key stream, read as coins or noise in a wrong way, or read aloud."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from private_distdd.privacy.randomness import Stream

_COVERED = 1 << 21  # values, for the stream that forgets the rest
_CHUNK = 1 << 17  # values, for the stream that starts again


class _WeakerLast(Stream):
    """The last coordinate of a row, which counts examples in CollabDM's messages, has half the noise."""

    def rounded_normals(self, shape: tuple[int, ...], standard_deviation: float) -> NDArray[np.int64]:
        out = super().rounded_normals(shape, standard_deviation)
        out[..., -1] //= 2
        return out


class _Uncovered(Stream):
    def rounded_normals(self, shape: tuple[int, ...], standard_deviation: float) -> NDArray[np.int64]:
        out = super().rounded_normals(shape, standard_deviation)
        out.reshape(-1)[_COVERED:] = 0
        return out


class _NineLikeZero(Stream):
    def rounded_normals(self, shape: tuple[int, ...], standard_deviation: float) -> NDArray[np.int64]:
        out = super().rounded_normals(shape, standard_deviation)
        if shape[0] > 9:
            out[9] = out[0]
        return out


class _CosineTwice(Stream):
    def rounded_normals(self, shape: tuple[int, ...], standard_deviation: float) -> NDArray[np.int64]:
        out = super().rounded_normals(shape, standard_deviation)
        pairs = out.reshape(-1)[: out.size // 2 * 2].reshape(-1, 2)
        pairs[:, 1] = pairs[:, 0]
        return out


class _CosineSigned(Stream):
    """The second of a pair is the first, under a sign of its own: no correlation shows it."""

    def rounded_normals(self, shape: tuple[int, ...], standard_deviation: float) -> NDArray[np.int64]:
        out = super().rounded_normals(shape, standard_deviation)
        pairs = out.reshape(-1)[: out.size // 2 * 2].reshape(-1, 2)
        pairs[:, 1] = pairs[:, 0] * np.where(self.words(len(pairs)) >> np.uint64(63), 1, -1)
        return out


class _StartsAgain(Stream):
    """The counter of AES restarts with each chunk."""

    def rounded_normals(self, shape: tuple[int, ...], standard_deviation: float) -> NDArray[np.int64]:
        count = math.prod(shape)
        first = super().rounded_normals((min(count, _CHUNK),), standard_deviation)
        return np.resize(first, count).reshape(shape)


class _Uniform(Stream):
    """Noise of the claimed variance that is no Gaussian."""

    def rounded_normals(self, shape: tuple[int, ...], standard_deviation: float) -> NDArray[np.int64]:
        uniform = self.words(math.prod(shape)).astype(np.float64) * 2.0**-64 - 0.5
        return np.rint(uniform * (math.sqrt(12) * standard_deviation)).astype(np.int64).reshape(shape)


class _TailCut(Stream):
    """No value is beyond 4.25 standard deviations."""

    def rounded_normals(self, shape: tuple[int, ...], standard_deviation: float) -> NDArray[np.int64]:
        end = math.floor(4.25 * standard_deviation)
        return np.clip(super().rounded_normals(shape, standard_deviation), -end, end)


class _RoundedUp(Stream):
    """One word more than q allows."""

    def coins(self, count: int, probability: float) -> NDArray[np.bool_]:
        if probability >= 1:
            return super().coins(count, probability)
        numerator, denominator = probability.as_integer_ratio()
        return self.words(count) <= np.uint64((numerator << 64) // denominator)


class _FirstAlways(Stream):
    def coins(self, count: int, probability: float) -> NDArray[np.bool_]:
        out = super().coins(count, probability)
        out[:1] = True
        return out


STREAMS: tuple[tuple[str, type[Stream]], ...] = (
    ("half the noise on the last coordinate, a count", _WeakerLast),
    ("noise on the first 2^21 values only", _Uncovered),
    ("class 9's noise is class 0's", _NineLikeZero),
    ("Box-Muller's cosine used twice", _CosineTwice),
    ("Box-Muller's cosine used twice, signs apart", _CosineSigned),
    ("the counter starts again with each chunk", _StartsAgain),
    ("uniform noise", _Uniform),
    ("noise without its tail", _TailCut),
    ("coins rounded up", _RoundedUp),
    ("the first example in every batch", _FirstAlways),
)
"""Names of faults, and the streams that have them."""
