"""The words that make a coin true: exactly as many as the probability, rounded down, allows."""

from __future__ import annotations

import time
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray

from private_distdd.auditing.checks.coins import drawn_rate
from private_distdd.auditing.checks.outcome import certain
from private_distdd.auditing.report.records import AuditRecord
from private_distdd.auditing.setting import Setting, known_rows
from private_distdd.privacy.mechanism import LATTICE
from private_distdd.privacy.randomness import Stream

_LITTLE = 1 / LATTICE  # sigma at which coins are seen: one lattice unit
_RATES = (0.5, 0.1, 1 / 3, 1 - 2.0**-53, 2.0**-53, 2.0**-64, 2.0**-65, 2.0**-70, 1e-30)


def threshold_check(setting: Setting, stream: type[Stream] = Stream) -> AuditRecord:
    """A coin is true for floor(q 2^64) of the 2^64 words, so that q is never more than was charged.

    The words around that threshold, the least and the largest are put in place of the key stream's, for the claimed q,
    for rates around the resolution of words, and for rates below it, which no word may pass.

    Args:
        setting: what is attacked.
        stream: the class of its streams.
    """
    started, found, compared = time.perf_counter(), list[str](), 0
    for q in dict.fromkeys((drawn_rate(setting.sample_rate), *_RATES)):
        threshold = int(Fraction(q) * 2**64)
        words = sorted({0, 2**64 - 1, *(w for w in range(threshold - 1, threshold + 2) if 0 <= w < 2**64)})
        n = len(words)
        statistic = known_rows(torch.ones(n, 1), torch.arange(n))
        measure = setting.mechanism(_LITTLE, q, 1.0, 1.0)
        message = measure(n, statistic, n, 1, _Crafted(stream, words))[:, 0]
        compared += n
        found += [
            f"q = {q:g}: word {word} of threshold {threshold} is {'in' if inside else 'out'}"
            for word, inside in zip(words, (message > 1e-3).tolist(), strict=True)
            if inside != (word < threshold)
        ]
    return certain(
        "threshold_check",
        started,
        found[:10],
        claim="a coin's probability is q rounded down to a multiple of 2^-64",
        statistic="who is in the batch under chosen words of the coins' stream",
        trials=compared,
        adversary="none: the auditor chooses the words",
        assumptions="coins are read from Stream.words",
    )


class _Crafted:
    """Streams whose coins read the given words, and whose noise is a stream's own.

    Args:
        base: the class of the streams.
        words: in place of the key stream's, once coins are asked for.
    """

    def __init__(self, base: type[Stream], words: list[int]) -> None:
        class Chosen(base):  # type: ignore[misc,valid-type]  # a class that is made of an argument
            def coins(self, count: int, probability: float) -> NDArray[np.bool_]:
                self.chosen = np.array(words, dtype=np.uint64)
                return np.asarray(super().coins(count, probability))

            def words(self, count: int) -> NDArray[np.uint64]:
                return self.chosen[:count] if hasattr(self, "chosen") else np.asarray(super().words(count))

        self._stream = Chosen

    def stream(self) -> Stream:
        chosen: Stream = self._stream(bytes(32))
        return chosen
