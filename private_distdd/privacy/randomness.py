"""Secret randomness for noise and Poisson coins: AES-256 in counter mode, keyed afresh by the operating system.

No public seed and no global generator (torch, numpy, random) reaches these streams, and drawing from them leaves the
global generators untouched.
"""

from __future__ import annotations

import hashlib
import math
import os
from typing import Protocol

import mpmath
import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

_CHUNK = 1 << 16  # pairs of normals made at a time: working memory stays in the cache


class Stream:
    """The AES-256-CTR key stream of one key, read as 64-bit words, coins and rounded normals.

    A stream is used by one release and thrown away, so that no word of it can ever serve twice (after a fork, too).

    Args:
        key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        # A fixed nonce is sound because no key is ever used for a second stream.
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def words(self, count: int) -> NDArray[np.uint64]:
        """`count` uniform 64-bit words, shape [count]."""
        return np.frombuffer(self._encryptor.update(bytes(8 * count)), dtype=np.uint64)

    def coins(self, count: int, probability: float) -> NDArray[np.bool_]:
        """`count` independent coins, shape [count], true with `probability` rounded down to a multiple of 2^-64.

        Args:
            probability: in (0, 1]; 1 is exactly always.
        """
        if probability >= 1:
            return np.ones(count, dtype=np.bool_)
        numerator, denominator = probability.as_integer_ratio()
        threshold = (numerator << 64) // denominator  # exact: rounded down, so that q is never more than charged
        return self.words(count) < np.uint64(threshold)

    def rounded_normals(self, shape: tuple[int, ...], standard_deviation: float) -> NDArray[np.int64]:
        """round(N(0, standard_deviation^2)), independent, int64 of `shape`.

        Box and Muller (1958): the uniforms' first 53 bits in float64, and 128 further bits with as many digits as it
        takes wherever these 53 could round to either of two neighbours (docs/theorem.md, 8.6).  So the result is the
        rounding of an exact normal, but for its tail beyond 15.8 standard deviations.

        Args:
            standard_deviation: in (0, 2^40].
        """
        count = math.prod(shape)
        out = np.empty(count + count % 2, dtype=np.int64)
        pairs = out.size // 2
        for start in range(0, pairs, _CHUNK):
            size = min(_CHUNK, pairs - start)
            first, second = (self.words(size) >> np.uint64(11) for _ in range(2))
            below = first.astype(np.float64) * 2.0**-53  # the uniform lies in [below, below + 2^-53)
            radius = np.sqrt(-2.0 * np.log(below + 2.0**-53))
            angle = second.astype(np.float64) * (2.0 * math.pi * 2.0**-53)
            normals = np.stack([np.cos(angle), np.sin(angle)], axis=1)
            normals *= (radius * standard_deviation)[:, None]
            out[2 * start : 2 * (start + size)] = np.rint(normals).astype(np.int64).reshape(-1)
            with np.errstate(divide="ignore"):
                error = standard_deviation * 2.0**-53 * (16.0 * radius + 1.0 / (below * radius))
            margin = np.abs(normals - np.floor(normals) - 0.5).min(axis=1)
            for pair in np.flatnonzero(~(margin > error)):  # so written, a radius or a uniform of 0 is doubtful
                place = 2 * (start + pair)
                out[place : place + 2] = self._refined(int(first[pair]), int(second[pair]), standard_deviation)
        return out[:count].reshape(shape)

    def _refined(self, first: int, second: int, standard_deviation: float) -> tuple[int, int]:
        """One pair again, from 53 + 128 bits of each uniform and 256-bit arithmetic."""
        bits = [int(word) for word in self.words(4)]
        exact = mpmath.MPContext()  # its own: the precision of mpmath's is shared by all threads
        exact.prec = 256
        uniform = exact.ldexp((first << 128) + (bits[0] << 64) + bits[1] + 1, -181)
        turn = exact.ldexp((second << 128) + (bits[2] << 64) + bits[3], -181)
        radius = exact.sqrt(-2 * exact.log(uniform)) * standard_deviation
        parts = exact.cos(2 * exact.pi * turn), exact.sin(2 * exact.pi * turn)
        return int(exact.nint(radius * parts[0])), int(exact.nint(radius * parts[1]))


class Randomness(Protocol):
    """Where a client's streams come from.

    A client charges its queries as private for `SystemRandomness` alone, by its type: no source can only say so.
    """

    def stream(self) -> Stream:
        """A stream that was never handed out before."""
        ...


class SystemRandomness:
    """The only source for real use: each stream gets its own 256-bit key from the operating system."""

    def stream(self) -> Stream:
        """A stream under a fresh key of `os.urandom`."""
        return Stream(os.urandom(32))


class InsecureRandomness:
    """Reproducible streams, for tests and audits.

    A client built with it charges NotPrivate events (epsilon is infinite) and its releases say "not private".
    """

    def __init__(self, insecure_seed: int) -> None:
        self._seed, self._streams = insecure_seed, 0

    def stream(self) -> Stream:
        """The next stream of the sequence that the seed determines."""
        self._streams += 1
        return Stream(hashlib.sha256(f"private_distdd insecure {self._seed} {self._streams}".encode()).digest())
