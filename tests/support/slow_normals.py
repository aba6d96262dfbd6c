"""The slow form of `Stream.rounded_normals`: every pair by numpy's sine and cosine, in chunks that no cache holds."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from private_distdd.privacy.randomness import Stream


def slow_normals(stream: Stream, count: int, standard_deviation: float, chunk: int) -> NDArray[np.int64]:
    """`count` of the integers that `rounded_normals` must give, from the same words in the same order."""
    out = np.empty(count + count % 2, dtype=np.int64)
    pairs = out.size // 2
    for start in range(0, pairs, chunk):
        size = min(chunk, pairs - start)
        first, second = (stream.words(size) >> np.uint64(11) for _ in range(2))
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
            out[place : place + 2] = stream._refined(int(first[pair]), int(second[pair]), standard_deviation)
    return out[:count]
