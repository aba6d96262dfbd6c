"""Noise that somebody could guess: seeds that steer it, or from which it follows."""

from __future__ import annotations

import functools
import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from private_distdd.auditing.checks.noise import noise_message
from private_distdd.auditing.checks.outcome import certain
from private_distdd.auditing.report.records import AuditRecord
from private_distdd.auditing.setting import Setting, known_rows
from private_distdd.errors import DataError
from private_distdd.privacy.randomness import InsecureRandomness, Stream, SystemRandomness

_WINDOW, _REACH = 64, 256  # values of a message, laid beside so many of a guessed stream
_COINCIDENCE, _NORMALS = 1e-9, 1 << 22
_NOBODY = torch.zeros(0, dtype=torch.int64)
_GROUPS = 4
_SEEDS = (*range(1000), 1234, 1337, 12345, 31337, 123456, 1234567, 123456789, 2**31 - 1, 2**32 - 1)
_Streams = tuple[list[str], NDArray[np.float32]]


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def same(one: Tensor, other: Tensor) -> bool:
    """Do so many coordinates agree that it is no coincidence on a coarse lattice?"""
    return float((one == other).to(torch.float64).mean()) > 0.1


def seed_check(setting: Setting) -> AuditRecord:
    """With every global generator seeded alike, two clients' messages and one client's next message all differ.

    The clients draw from the operating system, as real ones do.  The global generators' states are put back.
    """
    started = time.perf_counter()
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        messages = []
        for _ in range(2):
            measure = setting.measure()
            for server_round in range(2):
                seed_everything(server_round)
                messages.append(noise_message(measure, 0, SystemRandomness()))
        seed_everything(0)  # one client, the same global state again
        messages.append(noise_message(measure, 0, SystemRandomness()))
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
    equal = sum(same(one, other) for one, other in itertools.combinations(messages, 2))
    findings = (f"{equal} pairs of messages carry the same noise",) if equal else ()
    return certain(
        "seed_check",
        started,
        findings,
        claim="no public seed and no global generator reaches the noise",
        statistic="equality of messages",
        trials=len(messages),
        adversary="knows every public seed and the state of every global generator",
        assumptions="the generators of random, numpy and torch are all that is global",
    )


def _common(seed: int) -> Iterator[tuple[str, NDArray[Any]]]:
    """What common generators start with under one seed, [256] each, by name."""
    for dtype in (torch.float32, torch.float64):
        normals = torch.randn(_REACH, dtype=dtype, generator=torch.Generator().manual_seed(seed))
        yield f"torch.Generator, {dtype}", normals.numpy()
    yield "numpy.random.default_rng", np.random.default_rng(seed).standard_normal(_REACH)
    yield "numpy.random.default_rng, float32", np.random.default_rng(seed).standard_normal(_REACH, np.float32)
    yield "numpy.random.seed", np.random.RandomState(seed % 2**32).standard_normal(_REACH)
    python = random.Random(seed)  # noqa: S311 - it is the suspect
    yield "random", np.array([python.gauss(0, 1) for _ in range(_REACH)])


def _own(seed: int, count: int) -> Iterator[tuple[str, NDArray[Any]]]:
    """The same of the library's generator, whose start depends on how many values are drawn at once."""
    insecure = InsecureRandomness(seed)
    for number in (1, 2):
        yield f"InsecureRandomness, stream {number}", insecure.stream().rounded_normals((count,), 2.0**20)[:_REACH]
    stream = Stream(sha256(str(seed).encode()).digest())
    yield "a key hashed from it", stream.rounded_normals((count,), 2.0**20)[:_REACH]


@functools.lru_cache(maxsize=16)  # a thousand seeds' streams are those of every message, or of every one of its size
def _usual(count: int | None) -> _Streams:
    """The streams of `_SEEDS`: of common generators, or of the library's where `count` values are drawn at once."""
    if count is None:
        return _streams(_common, _SEEDS)
    return _streams(functools.partial(_own, count=count), _SEEDS[: _affordable(count)])


def _affordable(count: int) -> int:
    """At how many seeds the library's generator is tried where `count` values are drawn at once."""
    return max(1, _NORMALS // count)


def _streams(made: Callable[[int], Iterator[tuple[str, NDArray[Any]]]], seeds: Sequence[int]) -> _Streams:
    """Names, and the streams' first normals float32 [streams, 256]."""
    found = [(f"{name}, seed {seed}", values) for seed in seeds for name, values in made(seed)]
    return [name for name, _ in found], np.array([values for _, values in found], np.float32).reshape(-1, _REACH)


def _guesses(count: int, public: Sequence[int]) -> _Streams:
    """All that is tried on a message of `count` values."""
    own = functools.partial(_own, count=count)
    parts = _streams(_common, public), _streams(own, public[: _affordable(count)]), _usual(None), _usual(count)
    return [name for names, _ in parts for name in names], np.concatenate([streams for _, streams in parts])


def _lengths(streams: NDArray[np.float32]) -> NDArray[np.float32]:
    """Norms of the streams' windows, centred: [windows, streams]."""
    values = np.pad(streams.T.astype(np.float64), ((1, 0), (0, 0)))
    sums, squares = (np.cumsum(values**power, axis=0) for power in (1, 2))
    sums, squares = (total[_WINDOW:] - total[:-_WINDOW] for total in (sums, squares))
    return np.sqrt(squares - sums**2 / _WINDOW).astype(np.float32)


def reproduced(noise: Tensor, public: Sequence[int] = ()) -> list[tuple[int, str]]:
    """Which rows of `noise` a common generator gives under a guessed seed: (row, generator and seed).

    A row's first 64 values are laid beside the first 256 of every generator, at every offset, and at `public` seeds, 0
    ... 999, and some that programmers like (the library's generator: at as many as 4 million normals of its own allow).
    Pearson's r finds noise of any scale; by its exact law for independent Gaussians a coincidence has probability 1e-9.

    Args:
        noise: one message, float [rows, dimension], dimension >= 64, of 256 values or more.
        public: further numbers to try, each in 0 ... 2^63 - 1.

    Raises:
        DataError: the message is smaller.
    """
    if noise.shape[1] < _WINDOW or noise.numel() < _REACH:
        raise DataError(f"noise {list(noise.shape)}", "64 columns or more, 256 values or more", "Ask a wider question.")
    names, streams = _guesses(noise.numel(), public)
    rows = noise[:, :_WINDOW].to(torch.float64).numpy()
    rows = rows - rows.mean(axis=1, keepdims=True)
    rows = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)).astype(np.float32)
    level = _COINCIDENCE / (len(rows) * len(streams) * (_REACH - _WINDOW + 1))
    bound = float(np.sqrt(stats.beta.isf(level, 0.5, _WINDOW / 2 - 1)))  # r^2 of independent vectors
    found = set[tuple[int, int]]()
    suspects, seen = torch.from_numpy(np.ascontiguousarray(streams.T)), torch.from_numpy(rows)
    for offset, lengths in enumerate(torch.from_numpy(_lengths(streams))):
        # torch multiplies: it keeps to the threads that it was given
        products = (seen @ suspects[offset : offset + _WINDOW]).abs_()
        for stream in torch.nonzero(products.amax(dim=0) > bound * lengths)[:, 0].tolist():
            alike = torch.nonzero(products[:, stream] > bound * lengths[stream])[:, 0]
            found.update((stream, row) for row in alike.tolist())
    return [(row, names[stream]) for stream, row in sorted(found)]


def guess_check(setting: Setting) -> AuditRecord:
    """No guessed public seed reproduces the noise of two clients' first two messages (see `reproduced`).

    It sees what equality of messages does not: noise that is new each time, but under seeds that can be listed.
    """
    started = time.perf_counter()
    findings = []
    for client in range(2):
        measure = setting.measure()
        for number in range(2):
            noise = measure(0, known_rows(torch.zeros(0, _WINDOW), _NOBODY), _GROUPS, _WINDOW, SystemRandomness())
            findings += [
                f"client {client}, message {number}, group {row}: noise of {name}" for row, name in reproduced(noise)
            ]
    return certain(
        "guess_check",
        started,
        findings[:10],
        claim="no seed that can be guessed reproduces the noise",
        statistic="correlation with the streams of common generators",
        trials=len(_guesses(_GROUPS * _WINDOW, ())[0]),
        adversary="tries seeds",
        assumptions="the generators and seeds tried; a coincidence has probability 1e-9",
    )


def digests(*names: str) -> list[int]:
    """Numbers that a program could make of a public name."""
    return [int.from_bytes(sha256(name.encode()).digest()[:size], "big") >> 1 for name in names for size in (4, 8)]
