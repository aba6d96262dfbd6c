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

_CHUNK = 1 << 16  # pairs whose words are drawn together: another number is other noise of the same key
_BLOCK = 1 << 14  # pairs computed at a time: working memory stays in the cache

# Of `_sieve`, which proves them.
_ARC_BITS = 12
_MIDDLES = np.exp(2j * math.pi * (np.arange(1 << _ARC_BITS) + 0.5) / (1 << _ARC_BITS))  # of arcs of the unit circle
_LEAST, _MOST = 1 << 37, (1 << 53) - (1 << 33)  # the uniforms 2^-16 and 1 - 2^-20
_SLACK = 2.0**-39  # in standard deviations


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
        rounding of an exact normal, but for its tail beyond 15.8 standard deviations.  A quicker evaluation serves for
        most pairs; it changes no bit.

        Args:
            standard_deviation: in (0, 2^40].
        """
        count = math.prod(shape)
        out = np.empty(count + count % 2, dtype=np.int64)
        pairs = out.reshape(-1, 2)
        for start in range(0, len(pairs), _CHUNK):
            chunk = pairs[start : start + _CHUNK]
            first, second = (self.words(len(chunk)) >> np.uint64(11) for _ in range(2))
            unsure = _sieve(first, second, standard_deviation, chunk)
            chunk[unsure], doubtful = _plain(first[unsure], second[unsure], standard_deviation)
            for pair in unsure[doubtful]:
                chunk[pair] = self._refined(int(first[pair]), int(second[pair]), standard_deviation)
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


def _plain(
    first: NDArray[np.uint64], second: NDArray[np.uint64], standard_deviation: float
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Box and Muller in float64: rounded pairs [n, 2], and which are doubtful, [n], by the bound of theorem 8.6.

    Args:
        first: 53 bits each of the radius' uniforms, [n].
        second: the same of the angles.
    """
    below = first.astype(np.float64) * 2.0**-53  # the uniform lies in [below, below + 2^-53)
    radius = np.sqrt(-2.0 * np.log(below + 2.0**-53))
    angle = second.astype(np.float64) * (2.0 * math.pi * 2.0**-53)
    normals = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    normals *= (radius * standard_deviation)[:, None]
    with np.errstate(divide="ignore"):
        error = standard_deviation * 2.0**-53 * (16.0 * radius + 1.0 / (below * radius))
    margin = np.abs(normals - np.floor(normals) - 0.5).min(axis=1)
    doubtful = ~(margin > error)  # so written, a radius or a uniform of 0 is doubtful
    return np.rint(normals).astype(np.int64), doubtful


def _sieve(
    first: NDArray[np.uint64], second: NDArray[np.uint64], standard_deviation: float, out: NDArray[np.int64]
) -> NDArray[np.intp]:
    """Write what `_plain` rounds into `out` [n, 2]; but not of the few pairs that are returned, in order.

    Any other pair is certain: `_plain` would give the same two integers and no doubt.  Here is why, with e = 2^-53 and
    distances in standard deviations.  `_plain`'s slow part is sine and cosine, so here e^i(m+b) = e^im e^ib for the
    middle m of one of 4,096 arcs, |b| <= pi / 4096.  1 - b^2/2 misses cos b by b^4/24 <= 130 e, b - b^3/6 misses sin b
    by less than e, and all roundings come to less than 20 e; so this is 150 e r off, r being the radius.  `_plain` is
    16 e r off (theorem 8.5), and its bound of doubt is e (16 r + 1 / (u r)).  For a uniform u in [2^-16, 1 - 2^-20],
    r is at most 4.71, and 1 / (u r), greatest at an end, at most 13,916.  So the two differ by 782 e at most, and the
    bound is below 13,992 e.  Both together are less than `_SLACK` = 16,384 e: a value that is farther from every
    half-integer here is on the same side in `_plain`, and beyond its bound.  (2^-52 is for rounding in the distances.)
    """
    farthest = 0.5 - (standard_deviation * _SLACK + 2.0**-52)  # from the nearest integer
    rest_bits = 53 - _ARC_BITS
    unsure = np.empty(len(out), dtype=np.bool_)
    for start in range(0, len(out), _BLOCK):
        block = slice(start, start + _BLOCK)
        # Signed views, of numbers below 2^53: they become float64 faster.
        radius = first[block].view(np.int64) * 2.0**-53
        radius += 2.0**-53
        np.log(radius, out=radius)
        radius *= -2.0 * standard_deviation**2
        np.sqrt(radius, out=radius)
        rest = second[block] & np.uint64((1 << rest_bits) - 1)
        third = rest.view(np.int64) * (2.0 * math.pi * 2.0**-53 / 3.0)
        third -= math.pi / 2.0**_ARC_BITS / 3.0  # b / 3
        part = third * third
        part *= -4.5
        part += 1.0  # cos b = 1 - b^2/2
        normals = np.empty(len(radius), dtype=np.complex128)
        np.multiply(radius, part, out=normals.real)
        part += 2.0
        part *= third  # sin b = b/3 (3 - b^2/2)
        np.multiply(radius, part, out=normals.imag)
        normals *= _MIDDLES[(second[block] >> np.uint64(rest_bits)).view(np.int64)]
        values = normals.view(np.float64)
        distance = np.rint(values)
        out[block] = distance.reshape(-1, 2)
        distance -= values  # exact
        near = np.abs(distance, out=distance) >= farthest
        np.logical_or(near[::2], near[1::2], out=unsure[block])
        unsure[block] |= first[block] - np.uint64(_LEAST) > np.uint64(_MOST - _LEAST)  # below `_LEAST` it wraps
    return np.flatnonzero(unsure)


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
