"""Noise: as large as claimed, Gaussian, and independent of all other noise, in the mechanism and of real clients.

All read messages that are nothing but noise: every example's statistic is zero, there is none, or two messages of one
batch are subtracted.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from private_distdd.auditing.checks import whiteness
from private_distdd.auditing.checks.outcome import statistical
from private_distdd.auditing.checks.whiteness import Test, Values
from private_distdd.auditing.probe import every_question
from private_distdd.auditing.report.records import GATE_ALPHA, AuditRecord
from private_distdd.auditing.setting import Measure, Setting, known_rows
from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.privacy.randomness import InsecureRandomness, Randomness
from private_distdd.site.client import Client
from private_distdd.wire.run import Run

LARGE = 12 * 200_003  # values: above 2^21, and above every chunk in which noise is made
MANY = DatasetInfo("noise", 100, (1, 8, 8), (0.5,), (0.5,))  # whose messages have 2.1 million values at width 128
_SIZES = (0, 8, 9)  # data sets of the noise check: an empty one, and two that a realised divisor tells apart
_ROUNDS, _GROUPS, _DIMENSION = 3, 4, 4096
_ROWS, _COLUMNS = 1031, 67  # many groups of few values: each column, and each pair of groups, is tested
_FEWEST_STEPS = 2.0**-10  # sigma below which the lattice itself would show in the distribution


def noise_message(measure: Measure, size: int, randomness: Randomness) -> Tensor:
    """A message that is nothing but noise, [4, 4096]: zeros, all in group 0, so that the others are absent."""
    rows, groups = torch.zeros(size, _DIMENSION), torch.zeros(size, dtype=torch.int64)
    return measure(size, known_rows(rows, groups), _GROUPS, _DIMENSION, randomness).to(torch.float64)


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
        measure, randomness = setting.measure(), InsecureRandomness(seed * len(_SIZES) + client)
        for server_round in range(_ROUNDS):
            message = noise_message(measure, size, randomness) * (setting.divisor / setting.max_grad_norm)
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
    correlation = torch.corrcoef(torch.from_numpy(values)).nan_to_num(0.0).numpy()
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


def message_check(setting: Setting, seed: int = 0, gate_alpha: float = GATE_ALPHA, values: int = LARGE) -> AuditRecord:
    """One large message is white from its first value to its last, and one of many groups in each row and column.

    The large one has 12 groups, the other 1,031 groups of 67 values; both are noise alone.  The large one, flattened:
    scale by 16,384 values, its distribution, and the correlation of noise, and of sizes of noise, at every distance.
    Groups: correlation of every pair.  The other one: scale of each row and column, and every pair of groups again.
    What is not covered to the end, is periodic, is shared by two groups, or is weaker in one coordinate, breaks one.

    Args:
        setting: what is attacked; a sigma below 2^-10 is replaced by it, since the lattice shows in smaller noise.
        seed: of the noise.
        gate_alpha: of the whole check.
        values: about how many the large message has, at least 12,000.
    """
    started = time.perf_counter()
    setting = dataclasses.replace(setting, noise_multiplier=max(setting.noise_multiplier, _FEWEST_STEPS))
    randomness = InsecureRandomness(seed)
    unit = setting.noise_multiplier * setting.max_grad_norm / setting.divisor

    def noise(groups: int, dimension: int) -> Values:
        statistic = known_rows(torch.zeros(0, dimension), torch.zeros(0, dtype=torch.int64))
        message = setting.measure()(0, statistic, groups, dimension, randomness)
        return np.asarray(message.to(torch.float64).numpy() / unit)

    large, many = noise(12, values // 12 | 1), noise(_ROWS, _COLUMNS)
    names = [f"group {i}" for i in range(_ROWS)]
    tests = [
        *whiteness.whole(large.reshape(-1), "a large message"),
        whiteness.pairs(large, names),
        whiteness.scale((many**2).sum(axis=1), _COLUMNS, names),
        *whiteness.whole(many.reshape(-1), "a message of many groups"),
        whiteness.scale((many**2).sum(axis=0), _ROWS, [f"column {i}" for i in range(_COLUMNS)]),
        whiteness.pairs(many, names),
    ]
    return _record(
        "message_check", tests, gate_alpha, seed, started, large.size + many.size, "messages of a client without data"
    )


def client_noise_check(
    setting: Setting,
    seed: int = 0,
    gate_alpha: float = GATE_ALPHA,
    make: Callable[..., Client] = Client,
    info: DatasetInfo = MANY,
    width: int = 128,
) -> AuditRecord:
    """`message_check` end to end, for every registered question, and by the blocks of which its rows are made.

    A client without data answers twice; one with an example of each class answers twice with q = 1, and the difference
    of its messages is noise again, under classes that are present.  Tested are the whole of each, every pair of their
    rows, and the scale of every block (a tensor of the network; a network, the count), over all rows and in each row.

    Args:
        setting: sigma, q, C and b as claimed; a sigma below 2^-10 is replaced by it.
        seed: of the noise; the clients' ledgers therefore say "not private".
        gate_alpha: of the whole check.
        make: the clients: `Client`, or what takes its place.
        info: of the clients; by default 100 classes, so that a message has 2.1 million values.
        width: of the networks asked about.
    """
    started, tests, seen = time.perf_counter(), list[Test](), 0
    sigma = max(setting.noise_multiplier, _FEWEST_STEPS)
    claimed = dataclasses.replace(setting.plan, noise_multiplier=sigma, max_queries=2)
    unit = sigma * setting.max_grad_norm / setting.divisor
    images = torch.randn((info.num_classes, *info.shape), generator=torch.Generator().manual_seed(0))
    everything = ImageDataset(images, torch.arange(info.num_classes), info)
    nothing = ImageDataset(images[:0], everything.labels[:0], info)

    for kind, question in every_question(info, width).items():
        parts = question.blocks(info)

        def answers(held: ImageDataset, q: float, own_seed: int) -> list[Values]:
            run = Run("noise", info, dataclasses.replace(claimed, sample_rate=q))
            client = make("audited", held, randomness=InsecureRandomness(own_seed))
            client.enroll(run)
            asked = [client.answer(question.query(run, i)).values for i in range(2)]  # noqa: B023 - called at once
            return [values.to(torch.float64).numpy() / unit for values in asked]

        first, second = answers(nothing, claimed.sample_rate, 2 * seed)
        one, other = answers(everything, 1.0, 2 * seed + 1)
        noises = {"no data": first, "no data, next": second, "all classes": (one - other) / np.sqrt(2)}
        rows = np.concatenate(list(noises.values()))
        names = [f"{kind}: {whose}, row {i}" for whose, noise in noises.items() for i in range(len(noise))]
        for whose, noise in noises.items():
            tests += whiteness.whole(noise.reshape(-1), f"{kind}: {whose}")
        tests += [whiteness.pairs(rows, names), *whiteness.blocks(rows, names, parts)]
        seen += rows.size
    return _record(
        "client_noise_check", tests, gate_alpha, seed, started, seen, "the registered questions, by small networks"
    )


def _record(
    audit: str, tests: list[Test], gate_alpha: float, seed: int, started: float, seen: int, assumptions: str
) -> AuditRecord:
    return statistical(
        audit,
        started,
        tests,
        gate_alpha,
        claim="noise N(0, (sigma C / b)^2), independent over all values of all messages",
        statistic="scale by blocks, distribution, correlation at every distance and of every pair of rows",
        trials=seen,
        adversary="reads messages that are noise alone",
        assumptions=assumptions,
        seed=seed,
    )
