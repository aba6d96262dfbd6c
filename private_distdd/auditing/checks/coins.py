"""Coins: one of its own for every example and round, of the claimed probability, and none of the noise's.

All read messages at a noise so small that they show who was in the batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from private_distdd.auditing.checks import whiteness
from private_distdd.auditing.checks.outcome import statistical
from private_distdd.auditing.checks.whiteness import Test
from private_distdd.auditing.probe import every_question
from private_distdd.auditing.report.records import GATE_ALPHA, AuditRecord
from private_distdd.auditing.setting import Setting, known_rows
from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.privacy.mechanism import LATTICE
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.privacy.randomness import InsecureRandomness
from private_distdd.site.client import Client
from private_distdd.wire.run import Run

_LITTLE = 1 / LATTICE  # sigma at which coins are seen: one lattice unit
_VISIBLE = 2.0**-10  # sigma at which coins are seen, and the noise too
_ROUNDS, _EXAMPLES = 40, 500
_CLIENT_ROUNDS, _COPIES = 20, 6
_PAIRS = 4096
_TEN = DatasetInfo("noise", 10, (1, 8, 8), (0.5,), (0.5,))


def drawn_rate(sample_rate: float) -> float:
    """The claimed rate, or 1/2 where it is 1: then nothing is claimed of coins, but the same code would draw them."""
    return sample_rate if sample_rate < 1 else 0.5


def _two_sided(counts: NDArray[np.int64], trials: int, probability: float) -> float:
    """The least two-sided binomial probability of `counts`, times their number."""
    low, high = stats.binom.cdf(counts, trials, probability), stats.binom.sf(counts - 1, trials, probability)
    return min(1.0, 2 * counts.size * float(np.minimum(low, high).min()))


def _tests(counts: NDArray[np.int64], each: int, q: float, what: str) -> list[Test]:
    """What coins must fulfil: `counts`, [rounds, cells], of how many of a cell's `each` examples were drawn."""
    rounds, cells = counts.shape
    n, total, sizes = cells * each, int(counts.sum()), counts.sum(axis=1)
    farthest = int(np.argmax(np.abs(sizes - n * q)))
    tests = [
        (
            f"{what}{total} of {n * rounds} examples drawn, not about {q:g} of them",
            _two_sided(counts.sum()[None], n * rounds, q),
        ),
        (f"{what}round {farthest}: {sizes[farthest]} of {n} examples drawn", _two_sided(sizes, n, q)),
    ]
    if q == 1:
        return tests
    own = counts.sum(axis=0)
    farthest = int(np.argmax(np.abs(own - each * rounds * q)))
    seen = f"{own[farthest]} times in {rounds} rounds of {each}"
    tests.append((f"{what}example {farthest} was drawn {seen}", _two_sided(own, each * rounds, q)))
    half = 0.5 * np.sqrt(n * q * (1 - q))
    low, high = np.ceil(n * q - half), np.floor(n * q + half)
    near = float(stats.binom.cdf(high, n, q) - stats.binom.cdf(low - 1, n, q))
    count = int(((sizes >= low) & (sizes <= high)).sum())
    text = f"{what}{count} of {rounds} batches have about {n * q:g} examples, not {near:.0%}"
    tests.append((text, _two_sided(np.array([count]), rounds, near)))
    one, other = np.triu_indices(rounds, 1)
    if each == 1:
        overlaps = (counts @ counts.T)[one, other]
        tests.append((f"{what}pairs of rounds do not overlap as independent draws do", _two_sided(overlaps, n, q * q)))
    else:
        law = stats.binom.pmf(np.arange(each + 1), each, q)
        alike = bool((counts[one] == counts[other]).all(axis=1).any())
        chance = min(1.0, len(one) * float((law**2).sum()) ** cells)
        tests.append((f"{what}two rounds draw equally many of every class", chance if alike else 1.0))
    return tests


def coin_check(setting: Setting, seed: int = 0, gate_alpha: float = GATE_ALPHA) -> AuditRecord:
    """Every example has a coin of its own in every round, of the claimed probability.

    500 examples, each alone in its group, over 40 rounds at sigma = 2^-20, where a message shows who was in the batch.
    Exact binomial tests, at gate_alpha by Bonferroni: the number of examples drawn in all (q doubled, q = 1); in each
    round (one round takes everybody); of each example (one is always drawn); the number of rounds whose batch size is
    within half a standard deviation of its mean (fixed-size batches: all; one coin for all: none); the overlap of each
    pair of rounds, Binomial(500, q^2) (coins reused, a stored sum).

    Args:
        setting: what is attacked; with sample_rate 1 only the rates are tested.
        seed: of the coins.
        gate_alpha: of the whole check.
    """
    started, n, q = time.perf_counter(), _EXAMPLES, setting.sample_rate
    measure, randomness = setting.mechanism(_LITTLE, q, 1.0, 1.0), InsecureRandomness(seed)
    statistic = known_rows(torch.ones(n, 1), torch.arange(n))
    drawn = np.stack([measure(n, statistic, n, 1, randomness)[:, 0].numpy() > 1e-3 for _ in range(_ROUNDS)])
    tests = _tests(drawn.astype(np.int64), 1, q, "")
    return _record("coin_check", tests, gate_alpha, seed, started, q, drawn.size, float(drawn.mean()))


def client_coin_check(
    setting: Setting, seed: int = 0, gate_alpha: float = GATE_ALPHA, make: Callable[..., Client] = Client
) -> AuditRecord:
    """`coin_check` end to end, for every registered question: how many of 6 copies of ten images are drawn each round.

    Each of 20 messages, at sigma = 2^-20, is a sum of known rows; least squares give how often each is in it.  One that
    is no sum of whole examples is refuted as well.

    Args:
        setting: its sample rate, or 1/2 where it is 1.
        seed: of the coins; the clients' ledgers therefore say "not private".
        gate_alpha: of the whole check.
        make: the client: `Client`, or what takes its place.
    """
    started, q, info = time.perf_counter(), drawn_rate(setting.sample_rate), _TEN
    images = torch.randn((info.num_classes, *info.shape), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(info.num_classes)
    held = ImageDataset(images.repeat_interleave(_COPIES, 0), labels.repeat_interleave(_COPIES), info)
    tests: list[Test] = []
    total = 0
    for number, (kind, question) in enumerate(every_question(info).items()):
        rows, groups = question.rows(images, labels, info)
        plan = PrivacyPlan(_LITTLE, q, float(rows.norm(dim=1).max()), 1.0, _CLIENT_ROUNDS, delta=1e-5)
        run = Run("coins", info, plan)
        client = make("audited", held, randomness=InsecureRandomness(3 * seed + number))
        client.enroll(run)
        asked = (client.answer(question.query(run, i)).values for i in range(_CLIENT_ROUNDS))
        messages = torch.stack([values.to(torch.float64) for values in asked])
        known = torch.zeros(info.num_classes, *messages.shape[1:], dtype=torch.float64)
        known[labels, groups] = rows
        known, sums = known.flatten(1), messages.flatten(1)
        found = torch.linalg.solve(known @ known.T, known @ sums.T).T.numpy()
        counts = np.clip(np.rint(found), 0, _COPIES).astype(np.int64)
        if np.abs(found - counts).max() > 0.1:
            tests.append((f"{kind}: a message is no sum of whole examples", 0.0))
        tests += _tests(counts, _COPIES, q, f"{kind}: ")
        total += counts.size * _COPIES
    return _record("client_coin_check", tests, gate_alpha, seed, started, q, total)


def stream_check(setting: Setting, seed: int = 0, gate_alpha: float = GATE_ALPHA) -> AuditRecord:
    """Coins and noise of one message do not know one another, at any distance: no key and no word serves both.

    4,096 groups of two values, one example each, at sigma = 2^-10, where a message shows both.  Noise, and its sizes,
    are laid beside the coins at every cyclic lag; given the coins, each sum is exactly normal.

    Args:
        setting: what is attacked, at its sample rate, or 1/2 where it is 1.
        seed: of the noise and the coins.
        gate_alpha: of the whole check.
    """
    started, q = time.perf_counter(), drawn_rate(setting.sample_rate)
    row = torch.tensor([[1.0, 0.0]])
    statistic = known_rows(row.expand(_PAIRS, 2), torch.arange(_PAIRS))
    measure = setting.mechanism(_VISIBLE, q, 1.0, 1.0)
    message = measure(_PAIRS, statistic, _PAIRS, 2, InsecureRandomness(seed)).to(torch.float64).numpy()
    coins = message[:, 0] > 0.5
    noise = (message - coins[:, None] * row.numpy()) / _VISIBLE
    tests = [
        whiteness.crossed(coins, values, f"{what} {column + 1} of a group's pair")
        for column in range(2)
        for what, values in (("noise", noise[:, column]), ("the size of noise", whiteness.sizes(noise[:, column])))
    ]
    return _record("stream_check", tests, gate_alpha, seed, started, q, _PAIRS, float(coins.mean()))


def _record(
    audit: str,
    tests: list[Test],
    gate_alpha: float,
    seed: int,
    started: float,
    q: float,
    seen: int,
    rate: float | None = None,
) -> AuditRecord:
    return statistical(
        audit,
        started,
        tests,
        gate_alpha,
        claim=f"a fresh coin of probability {q:g} for every example and round, independent of the noise",
        statistic="examples drawn in all, by round and by example; batch sizes; overlaps of rounds; noise beside coins",
        trials=seen,
        adversary="reads messages at a noise that hides nothing",
        assumptions="coins do not depend on sigma",
        seed=seed,
        figures={} if rate is None else {"rate": rate},
    )
