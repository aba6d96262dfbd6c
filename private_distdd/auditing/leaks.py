"""What else a message could tell: noise that is not fresh or not as large as claimed, and coins that are not coins.

All read the real messages: noise where every example's statistic is zero, coins where sigma is one lattice unit.
"""

from __future__ import annotations

import functools
import itertools
import random
import time
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from private_distdd.auditing.canary import Release, Setting, rows_statistic
from private_distdd.auditing.question import Question
from private_distdd.auditing.records import GATE_ALPHA, AuditRecord
from private_distdd.data.datasets import ImageDataset
from private_distdd.errors import DataError
from private_distdd.federation.client import Client
from private_distdd.federation.messages import Run
from private_distdd.privacy.randomness import InsecureRandomness, Randomness, Stream, SystemRandomness
from private_distdd.privacy.spec import PrivacyPlan

_LITTLE = 2.0**-20  # sigma at which coins are seen: one lattice unit
_SIZES = (0, 8, 9)  # data sets of the noise check: an empty one, and two that a realised divisor tells apart
_ROUNDS, _GROUPS, _DIMENSION = 3, 4, 4096
_WINDOW, _REACH = 64, 256  # values of a message, laid beside so many of a guessed stream
_SEEDS = (*range(1000), 1234, 1337, 12345, 31337, 123456, 1234567, 123456789, 2**31 - 1, 2**32 - 1)
_COINCIDENCE, _NORMALS = 1e-9, 1 << 22
_NOBODY = torch.zeros(0, dtype=torch.int64)
_COIN_ROUNDS, _COIN_EXAMPLES = 40, 500


def _noise(release: Release, size: int, randomness: Randomness) -> Tensor:
    """A message that is nothing but noise, [4, 4096]: zeros, all in group 0, so that the others are absent."""
    rows, groups = torch.zeros(size, _DIMENSION), torch.zeros(size, dtype=torch.int64)
    return release(size, rows_statistic(rows, groups), _GROUPS, _DIMENSION, randomness).to(torch.float64)


def noise_check(setting: Setting, seed: int = 0, gate_alpha: float = GATE_ALPHA) -> AuditRecord:
    """The noise has the claimed scale for every client, round and group, and no two of its vectors are correlated.

    Three clients with 0, 8 and 9 examples, three rounds, four groups of which one is present: 36 vectors of 4,096.
    A divisor by the realised batch, noise on present classes only, noise reused over rounds, shared by the groups or
    drawn from something public that clients share: each breaks one of the tests.  Scale: sum of squares against
    chi^2 with 4,096 degrees of freedom, two-sided.  Independence: Pearson's r of each pair, by its exact law for
    Gaussians.  All at gate_alpha by Bonferroni.

    Args:
        setting: what is attacked.
        seed: of the clients' streams.
        gate_alpha: of the whole check.
    """
    started = time.perf_counter()
    names, vectors = [], []
    for client, size in enumerate(_SIZES):
        release, randomness = setting.release(), InsecureRandomness(seed * len(_SIZES) + client)
        for server_round in range(_ROUNDS):
            message = _noise(release, size, randomness) * (setting.divisor / setting.max_norm)
            for group, vector in enumerate(message.numpy()):
                names.append(f"client of {size}, round {server_round}, group {group}")
                vectors.append(vector / setting.noise_multiplier)
    values = np.stack(vectors)
    pairs = list(itertools.combinations(range(len(values)), 2))
    level = gate_alpha / (len(values) + len(pairs))
    squares = (values**2).sum(axis=1)
    scale = 2 * np.minimum(stats.chi2.cdf(squares, _DIMENSION), stats.chi2.sf(squares, _DIMENSION))
    findings = [
        f"{name}: noise of {np.sqrt(square / _DIMENSION):.4g} times the claimed scale"
        for name, square, p in zip(names, squares, scale, strict=True)
        if not p >= level
    ]
    with np.errstate(invalid="ignore"):
        correlation = np.nan_to_num(np.corrcoef(values))
    largest = 0.0
    bound = float(np.sqrt(stats.beta.isf(level, 0.5, _DIMENSION / 2 - 1)))  # r^2 of independent vectors
    for one, other in pairs:
        r = abs(float(correlation[one, other]))
        largest = max(largest, r)
        if r > bound:
            findings.append(f"{names[one]} and {names[other]}: correlation {r:.3f}")
    return AuditRecord(
        audit="noise_check",
        claim="noise of standard deviation sigma C / b, independent over clients, rounds and groups",
        kind="rigorous",
        statistic="chi^2 of each noise vector, correlation of each pair",
        trials=len(values),
        rejected=bool(findings),
        adversary="reads messages of clients whose examples have zero gradients",
        assumptions="noise does not depend on the statistic's values",
        seconds=time.perf_counter() - started,
        seed=seed,
        figures={"largest correlation": largest, "allowed correlation": bound},
        findings=tuple(findings[:10]),
        gate_alpha=gate_alpha,
    )


def _two_sided(counts: NDArray[np.int64], trials: int, probability: float) -> NDArray[np.float64]:
    low, high = stats.binom.cdf(counts, trials, probability), stats.binom.sf(counts - 1, trials, probability)
    return np.asarray(np.minimum(1.0, 2 * np.minimum(low, high)))


def coin_check(setting: Setting, seed: int = 0, gate_alpha: float = GATE_ALPHA) -> AuditRecord:
    """Every example has a coin of its own in every round, of the claimed probability.

    500 examples, each alone in its group, over 40 rounds at sigma = 2^-20, where a message shows who was in the batch.
    Three exact binomial tests, at gate_alpha by Bonferroni: the number of examples drawn (q doubled, q = 1); the number
    of rounds whose batch size is within half a standard deviation of its mean (fixed-size batches: all; one coin for
    all: none); the overlap of each pair of rounds, Binomial(500, q^2) (coins reused, a stored sum).

    Args:
        setting: what is attacked; with sample_rate 1 only the rate is tested.
        seed: of the coins.
        gate_alpha: of the whole check.
    """
    started = time.perf_counter()
    n, q = _COIN_EXAMPLES, setting.sample_rate
    release, randomness = setting.mechanism(_LITTLE, q, 1.0, 1.0), InsecureRandomness(seed)
    statistic = rows_statistic(torch.ones(n, 1), torch.arange(n))
    drawn = np.stack([release(n, statistic, n, 1, randomness)[:, 0].numpy() > 1e-3 for _ in range(_COIN_ROUNDS)])
    findings = []
    total = int(drawn.sum())
    pairs = list(itertools.combinations(range(_COIN_ROUNDS), 2)) if q < 1 else []
    level = gate_alpha / (2 + len(pairs))
    if not _two_sided(np.array([total]), drawn.size, q)[0] >= level:
        findings.append(f"{total} of {drawn.size} examples drawn, not about {q:g} of them")
    if q < 1:
        half = 0.5 * np.sqrt(n * q * (1 - q))
        low, high = np.ceil(n * q - half), np.floor(n * q + half)
        near = float(stats.binom.cdf(high, n, q) - stats.binom.cdf(low - 1, n, q))
        sizes = drawn.sum(axis=1)
        count = int(((sizes >= low) & (sizes <= high)).sum())
        if not _two_sided(np.array([count]), _COIN_ROUNDS, near)[0] >= level:
            findings.append(f"{count} of {_COIN_ROUNDS} batches have about {n * q:g} examples, not {near:.0%}")
        both = drawn.astype(np.int64) @ drawn.T.astype(np.int64)
        overlaps = np.array([both[one, other] for one, other in pairs])
        wrong = int((_two_sided(overlaps, n, q * q) < level).sum())
        if wrong:
            findings.append(f"{wrong} of {len(pairs)} pairs of rounds do not overlap as independent draws do")
    return AuditRecord(
        audit="coin_check",
        claim=f"a fresh coin of probability {q:g} for every example and round",
        kind="rigorous",
        statistic="examples drawn, batch sizes, overlaps of rounds",
        trials=drawn.size,
        rejected=bool(findings),
        adversary="reads messages at a noise that hides nothing",
        assumptions="coins do not depend on sigma",
        seconds=time.perf_counter() - started,
        seed=seed,
        figures={"rate": total / drawn.size},
        findings=tuple(findings),
        gate_alpha=gate_alpha,
    )


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _same(one: Tensor, other: Tensor) -> bool:
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
            release = setting.release()
            for server_round in range(2):
                _seed_everything(server_round)
                messages.append(_noise(release, 0, SystemRandomness()))
        _seed_everything(0)  # one client, the same global state again
        messages.append(_noise(release, 0, SystemRandomness()))
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
    equal = sum(_same(one, other) for one, other in itertools.combinations(messages, 2))
    findings = (f"{equal} pairs of messages carry the same noise",) if equal else ()
    return AuditRecord(
        audit="seed_check",
        claim="no public seed and no global generator reaches the noise",
        kind="deterministic",
        statistic="equality of messages",
        trials=len(messages),
        rejected=bool(findings),
        adversary="knows every public seed and the state of every global generator",
        assumptions="the generators of random, numpy and torch are all that is global",
        seconds=time.perf_counter() - started,
        findings=findings,
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


@functools.lru_cache(maxsize=2)
def _guesses(seeds: tuple[int, ...], count: int) -> tuple[list[str], NDArray[np.float32]]:
    """Names, and the streams' normals float32 [streams, 256]."""
    found = [(f"{name}, seed {seed}", values) for seed in seeds for name, values in _common(seed)]
    few = seeds[: max(1, _NORMALS // count)]
    found += [(f"{name}, seed {seed}", values) for seed in few for name, values in _own(seed, count)]
    return [name for name, _ in found], np.stack([values for _, values in found]).astype(np.float32)


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
    names, streams = _guesses((*public, *_SEEDS), noise.numel())
    rows = noise[:, :_WINDOW].to(torch.float64).numpy()
    rows = rows - rows.mean(axis=1, keepdims=True)
    rows = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)).astype(np.float32)
    offsets = range(_REACH - _WINDOW + 1)
    level = _COINCIDENCE / (len(rows) * len(streams) * len(offsets))
    bound = float(np.sqrt(stats.beta.isf(level, 0.5, _WINDOW / 2 - 1)))  # r^2 of independent vectors
    largest = np.zeros((len(streams), len(rows)), dtype=np.float32)
    for offset in offsets:
        part = streams[:, offset : offset + _WINDOW]
        np.maximum(largest, np.abs(part @ rows.T) / (part.std(axis=1) * _WINDOW**0.5)[:, None], out=largest)
    return [(int(row), names[stream]) for stream, row in np.argwhere(largest > bound)]


def guess_check(setting: Setting) -> AuditRecord:
    """No guessed public seed reproduces the noise of two clients' first two messages (see `reproduced`).

    It sees what equality of messages does not: noise that is new each time, but under seeds that can be listed.
    """
    started = time.perf_counter()
    findings = []
    for client in range(2):
        release = setting.release()
        for number in range(2):
            noise = release(0, rows_statistic(torch.zeros(0, _WINDOW), _NOBODY), _GROUPS, _WINDOW, SystemRandomness())
            findings += [
                f"client {client}, message {number}, group {row}: noise of {name}" for row, name in reproduced(noise)
            ]
    return AuditRecord(
        audit="guess_check",
        claim="no seed that can be guessed reproduces the noise",
        kind="deterministic",
        statistic="correlation with the streams of common generators",
        trials=len(_guesses(_SEEDS, _GROUPS * _WINDOW)[0]),
        rejected=bool(findings),
        adversary="tries seeds",
        assumptions="the generators and seeds tried; a coincidence has probability 1e-9",
        seconds=time.perf_counter() - started,
        findings=tuple(findings[:10]),
    )


def _digests(*names: str) -> list[int]:
    """Numbers that a program could make of a public name."""
    return [int.from_bytes(sha256(name.encode()).digest()[:size], "big") >> 1 for name in names for size in (4, 8)]


def client_check(dataset: ImageDataset, question: Question) -> AuditRecord:
    """End to end: the form of a message tells nothing about the data, and seeds of the program do not repeat it.

    Clients with no example, one, one class and the whole of `dataset` answer one query: as many bytes from each, finite
    values in every class, no counts.  Then every global generator is seeded and the same clients are made again: all
    messages differ, and no guessed seed reproduces the noise, those made of the names of client and run included.

    Args:
        dataset: what the largest client holds, at least one example.
        question: what they are asked.
    """
    started = time.perf_counter()
    info = dataset.info
    plan = PrivacyPlan(1.0, 0.5, 1.0, 1.0, 1, delta=1e-5)
    run = Run("leaks", info, plan)
    query = question.query(run, 0)
    one_class = dataset.labels == dataset.labels[0]
    parts = [(dataset.images[:n], dataset.labels[:n]) for n in (0, 1, len(dataset))]
    parts.append((dataset.images[one_class], dataset.labels[one_class]))
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    replies = []
    try:
        for images, labels in parts:
            for _ in range(2):
                _seed_everything(0)
                client = Client("audited", ImageDataset(images, labels, info))
                client.enroll(run)
                replies.append(client.answer(query))
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
    findings = []
    if len({len(reply.data) for reply in replies}) > 1:
        findings.append("messages of different data sets differ in their number of bytes")
    if any(reply.counts is not None for reply in replies):
        findings.append("a message carries counts")
    if any(bool((reply.values == 0).all(dim=1).any()) for reply in replies):
        findings.append("a class of a message is without noise")
    if any(_same(a.values, b.values) for a, b in itertools.combinations(replies, 2)):
        findings.append("two messages carry the same noise")
    # The first client is empty: its messages are noise alone.
    names = _digests("audited", run.run_id, run.terms, query.message_id)
    findings += [f"class {row}: noise of {name}" for row, name in reproduced(replies[0].values, names)]
    return AuditRecord(
        audit="client_check",
        claim="a message's form is public, and its noise new each time",
        kind="deterministic",
        statistic="bytes, counts, classes, equality of messages, guessed seeds",
        trials=len(replies),
        rejected=bool(findings),
        adversary="the server, which knows every public seed",
        assumptions="the data sets tried; time is outside",
        seconds=time.perf_counter() - started,
        findings=tuple(findings),
    )
