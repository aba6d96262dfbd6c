"""Rounded normals: this library, its form before the sieve, insecure sources, and the bare key stream that all cost.

    python benchmarks/noise.py [--quick]

317,706 values are the parameters of a ConvNet-3 of width 128 on MNIST: the noise of one class.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from side_by_side import Benchmark, Spread

from private_distdd.privacy.randomness import Stream

KEY, CHUNK, WIDTH = bytes(range(32)), 1 << 16, 2.0**20


def previous(count: int, standard_deviation: float) -> NDArray[np.int64]:
    """What `Stream.rounded_normals` was before the sieve."""
    stream = Stream(KEY)
    out = np.empty(count + count % 2, dtype=np.int64)
    pairs = out.size // 2
    for start in range(0, pairs, CHUNK):
        size = min(CHUNK, pairs - start)
        first, second = (stream.words(size) >> np.uint64(11) for _ in range(2))
        below = first.astype(np.float64) * 2.0**-53
        radius = np.sqrt(-2.0 * np.log(below + 2.0**-53))
        angle = second.astype(np.float64) * (2.0 * math.pi * 2.0**-53)
        normals = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        normals *= (radius * standard_deviation)[:, None]
        out[2 * start : 2 * (start + size)] = np.rint(normals).astype(np.int64).reshape(-1)
        with np.errstate(divide="ignore"):
            error = standard_deviation * 2.0**-53 * (16.0 * radius + 1.0 / (below * radius))
        margin = np.abs(normals - np.floor(normals) - 0.5).min(axis=1)
        for pair in np.flatnonzero(~(margin > error)):
            place = 2 * (start + pair)
            out[place : place + 2] = stream._refined(int(first[pair]), int(second[pair]), standard_deviation)
    return out[:count]


def key_stream(count: int) -> None:
    """AES-256-CTR of a word a value, in the library's chunks."""
    stream = Stream(KEY)
    for start in range(0, count, CHUNK):
        stream.words(min(CHUNK, count - start))


if __name__ == "__main__":
    bench = Benchmark("noise", "Rounded normals of 2^20, int64")
    count, repeats = (317_706, 25) if bench.quick else (3_177_060, 25)
    insecure = np.random.default_rng(0)
    cases = {
        "this library": lambda: Stream(KEY).rounded_normals((count,), WIDTH),
        "previous": lambda: previous(count, WIDTH),
        "numpy.random.Generator.normal, float64 (insecure)": lambda: insecure.normal(0.0, WIDTH, count),
        "torch.normal, float32 (insecure)": lambda: torch.normal(0.0, WIDTH, (count,)),
        "AES-256-CTR key stream alone": lambda: key_stream(count),
    }
    found = bench.seconds(cases, repeats)
    for name, seconds in found.items():
        bench.row(
            setting=f"{count:,} values",
            case=name,
            seconds=Spread.of(seconds),
            ratio=Spread.of([other / own for other, own in zip(found["previous"], seconds, strict=True)]),
            millions_a_second=Spread.of([count / own / 1e6 for own in seconds]),
        )
    assert np.array_equal(Stream(KEY).rounded_normals((count,), WIDTH), previous(count, WIDTH))
    bench.finish()
