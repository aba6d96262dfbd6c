"""What is attacked: one mechanism's public constants, and the trials that are made of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from private_distdd.auditing.bounds import Scores
from private_distdd.privacy.events import SampledGaussian
from private_distdd.privacy.mechanism import Rows, RowSource, SampledGaussianMechanism
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.privacy.randomness import Randomness
from private_distdd.privacy.tradeoff import TradeoffCurve

Measure: TypeAlias = Callable[[int, RowSource, int, int, Randomness], Tensor]
"""One client's mechanism over a run: called once a message, as `SampledGaussianMechanism.measure`."""

Mechanism: TypeAlias = Callable[[float, float, float, float], Measure]
"""From (noise_multiplier, sample_rate, max_grad_norm, divisor) to a client's mechanism: what the audits attack."""
Runs: TypeAlias = NDArray[np.float64]
"""Scores of runs, float64 [runs, T]."""

CANARY_NORM = 10.0  # in units of C
_DIMENSION = 4  # background along the first coordinate, the canary along the last two
_CHUNK = 1 << 16


def library(noise_multiplier: float, sample_rate: float, max_grad_norm: float, divisor: float) -> Measure:
    """The library's own mechanism."""
    return SampledGaussianMechanism(noise_multiplier, sample_rate, max_grad_norm, divisor).measure


def known_rows(rows: Tensor, groups: Tensor) -> RowSource:
    """Rows that are known beforehand: example i has `rows`[i], float32 [n, d], in group `groups`[i]."""

    def rows_of(batch: NDArray[np.int64]) -> Iterator[Rows]:
        for part in torch.split(torch.from_numpy(batch), _CHUNK):
            yield rows[part], groups[part]

    return rows_of


def canary_scores(
    measure: Measure, trials: int, max_grad_norm: float, divisor: float, randomness: Randomness, inside: bool
) -> Scores:
    """Scores of `trials` independent trials in one message, float64 [trials].

    Each group holds a background example of norm 3 C along the first axis and, if `inside`, the canary along u, which
    lies on the diagonal of the last two axes (so that a norm taken part by part is wrong for it).
    """
    direction = torch.zeros(_DIMENSION, dtype=torch.float64)
    direction[-2:] = math.sqrt(0.5)
    background = torch.zeros(trials, _DIMENSION)
    background[:, 0] = 3 * max_grad_norm
    groups = torch.arange(trials)
    rows = background
    if inside:
        canaries = (CANARY_NORM * max_grad_norm * direction).to(torch.float32).expand(trials, -1)
        rows, groups = torch.cat([background, canaries]), groups.repeat(2)
    message = measure(len(rows), known_rows(rows, groups), trials, _DIMENSION, randomness)
    return ((message.to(torch.float64) @ direction) * (divisor / max_grad_norm)).numpy()


@dataclass(frozen=True)
class Setting:
    """One mechanism's public constants, and the audit's own: all that an audit of messages needs.

    Args:
        noise_multiplier, sample_rate, max_grad_norm, divisor: sigma, q, C and b as claimed.
        rounds: messages in one run, T.
        mechanism: what is attacked; the library's own by default.

    Raises:
        ConfigurationError: a constant is outside its range.
    """

    noise_multiplier: float = 1.0
    sample_rate: float = 1.0
    max_grad_norm: float = 1.0
    divisor: float = 1.0
    rounds: int = 1
    mechanism: Mechanism = library

    def __post_init__(self) -> None:
        self.plan  # noqa: B018 - its own checks

    @property
    def plan(self) -> PrivacyPlan:
        """The same constants as a client would pin them."""
        return PrivacyPlan(
            self.noise_multiplier, self.sample_rate, self.max_grad_norm, self.divisor, self.rounds, delta=1e-5
        )

    @property
    def event(self) -> SampledGaussian:
        """What the run costs, as claimed."""
        return self.plan.schedule

    @property
    def claim(self) -> str:
        """The claim in words."""
        return (
            f"{self.rounds} release{'s' * (self.rounds > 1)} of the Gaussian mechanism, sigma = "
            f"{self.noise_multiplier:g}, q = {self.sample_rate:g}"
        )

    def measure(self) -> Measure:
        """A fresh client's mechanism."""
        return self.mechanism(self.noise_multiplier, self.sample_rate, self.max_grad_norm, self.divisor)

    def curve(self) -> TradeoffCurve:
        """The accountant's trade-off curve for the claim."""
        return TradeoffCurve([self.event])

    def runs(self, trials: int, randomness: Randomness, inside: bool) -> Runs:
        """Scores of `trials` independent runs of T messages, float64 [trials, T]."""
        measure = self.measure()
        scores = [
            canary_scores(measure, trials, self.max_grad_norm, self.divisor, randomness, inside)
            for _ in range(self.rounds)
        ]
        return np.stack(scores, axis=1)
