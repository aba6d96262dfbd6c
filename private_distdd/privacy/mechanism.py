"""The one mechanism: Poisson batch, clipped per-example rows on a lattice, integer noise, public divisor.

It knows nothing of training: the examples' rows come in as a callable.  Every noisy message of the library is
what a `Measurement` gives at its end; clean sums never leave this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from private_distdd.privacy.events import SampledGaussian
from private_distdd.privacy.randomness import Randomness

LATTICE = 1 << 20  # C / gamma: lattice points in one clipping norm

Rows: TypeAlias = tuple[Tensor, Tensor]
"""One row an example, float [>= m, dimension], and the group each of the first m is summed into, int64 [m].

Rows beyond m are padding: with every micro-batch of one size, no example's bits depend on how many ride along."""

RowSource: TypeAlias = Callable[[NDArray[np.int64]], Iterable[Rows]]
"""From the indices of the batch's examples to their rows, in micro-batches."""


_BLOCK = 1 << 15  # values clipped at a time: in float64 and int32 they stay in a core's cache
_GPU_ROWS = 64  # rows clipped at a time on a GPU, which has no such cache and many cores


def clip_to_lattice(rows: Tensor, max_grad_norm: float) -> Tensor:
    """Clip each row to L2 norm `max_grad_norm` and truncate it toward zero onto the lattice (max_grad_norm / 2^20) Z^d.

    Args:
        rows: float, shape [m, d]; one example a row.
        max_grad_norm: C > 0.

    Returns:
        Lattice coordinates k, int64 [m, d]: the clipped row is k * max_grad_norm / 2^20.

    Formal guarantee: for every input, NaN and infinity included, each row of the result satisfies sum(k^2) <= 2^40 in
    exact integer arithmetic, so its norm is at most C (assumption A3).  A row depends on the same row of the input
    alone.  A row with a non-finite entry becomes zero.
    """
    points = torch.zeros(rows.shape, dtype=torch.int64, device=rows.device)
    for part, clipped in _clipped_blocks(rows, max_grad_norm):
        points[part] = clipped.to(torch.int64)
    return points


def _clipped_blocks(rows: Tensor, max_grad_norm: float) -> Iterator[tuple[slice, Tensor]]:
    """Rows as `clip_to_lattice` has them, but float64, block by block; each is good until the next.

    A block's size depends on the rows' length alone, so that no row's bits depend on how many there are (A2).  Buffers
    serve all blocks: fresh ones of a micro-batch's size cost more in page faults than the arithmetic.
    """
    count, dimension = rows.shape
    size = max(1, _BLOCK // max(1, dimension)) if rows.is_cpu else _GPU_ROWS
    wide = rows.new_zeros((size, dimension), dtype=torch.float64)
    whole = rows.new_zeros((size, dimension), dtype=torch.int32)
    for start in range(0, max(1, count), size):  # one block at least: an empty batch takes the memory of others
        part = slice(start, min(start + size, count))
        own = part.stop - start
        wide[:own] = rows[part]  # the rest of the last block is computed, too, and nobody looks at it
        norms = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
        # The factor stops 2^-40 short of C, more than float64 rounding can add; the check below is the proof.  float32
        # entries cannot overflow float64 squares, so a non-finite norm means a non-finite entry.
        factor = (max_grad_norm / norms).clamp_(max=1.0) * (LATTICE / max_grad_norm) * (1 - 2.0**-40)
        # Truncated by the cast, ten times as fast as by `trunc`.  What it makes of NaN is some whole number, too.
        wide.copy_(whole.copy_(wide.mul_(factor.nan_to_num_())))
        # The integer check.  Squares of whole numbers: float64 adds them exactly while the sum is below 2^53, in any
        # order; beyond that it rounds, but sums of what is not negative never fall, and so not to 2^40.
        squares = torch.linalg.vecdot(wide, wide).unsqueeze(1)
        yield part, wide.mul_((squares <= LATTICE**2) & torch.isfinite(norms))[:own]


def lattice_sums(batches: Iterable[Rows], num_groups: int, dimension: int, max_grad_norm: float) -> Tensor:
    """Exact int64 sums of clipped rows by group, [num_groups, dimension], in lattice units, on the rows' device."""
    sums = _Sums(num_groups, dimension, max_grad_norm)
    for rows, groups in batches:
        sums.add(rows, groups)
        del rows, groups  # before the next are made: two micro-batches take the memory of one
    return sums.total()


class _Sums:
    """Sums of clipped rows by group, as they come."""

    def __init__(self, num_groups: int, dimension: int, max_grad_norm: float) -> None:
        # float64 is exact below 2^53: of whole numbers of at most 2^20 it holds the sums of 2^33 examples.
        self._sums = torch.zeros(num_groups, dimension, dtype=torch.float64)
        self._max_grad_norm = max_grad_norm

    def add(self, rows: Tensor, groups: Tensor) -> None:
        """Rows beyond the groups are padding."""
        self._sums, own = self._sums.to(rows.device), groups.to(rows.device)
        for part, clipped in _clipped_blocks(rows[: len(groups)], self._max_grad_norm):
            # Whole numbers, so the order of addition does not matter, on a GPU either.
            self._sums.index_add_(0, own[part], clipped)

    def total(self) -> Tensor:
        """int64 [num_groups, dimension], on the rows' device."""
        return self._sums.to(torch.int64)


@dataclass(frozen=True)
class SampledGaussianMechanism:
    """m = (sum over a Poisson batch of clip_C(row) + N(0, sigma^2 C^2 I)) / b, by group, on a lattice.

    Args:
        noise_multiplier: sigma in (0, 2^20].
        sample_rate: q in (0, 1].
        max_grad_norm: C > 0, the L2 bound on one example's whole row.
        divisor: b > 0, public, the same for all clients.

    Formal guarantee: with the operating system's `randomness`, one `measure` is the event `event` for adding or
    removing one example, under assumptions A1 to A3 of docs/theorem.md: an example enters one group's row only, its row
    depends on itself and public values alone (A2 is the question's duty), fresh secret coins, public q, C, sigma and b.
    """

    noise_multiplier: float
    sample_rate: float
    max_grad_norm: float
    divisor: float = 1.0

    @property
    def event(self) -> SampledGaussian:
        """What one release costs."""
        return SampledGaussian(self.noise_multiplier, self.sample_rate)

    @property
    def sensitivity(self) -> float:
        """The L2 distance by which one example can move a message before noise: C / b."""
        return self.max_grad_norm / self.divisor

    def measure(self, size: int, rows_of: RowSource, num_groups: int, dimension: int, randomness: Randomness) -> Tensor:
        """One message, float32 [num_groups, dimension], on the CPU.  The caller has charged `event` before.

        Args:
            size: number of examples held (private).
            rows_of: yields rows and groups for given example indices; called even for an empty batch, for which it
                must take the memory that any other takes (docs/theorem.md, section 9).
            randomness: source of the noise's and the coins' streams, one fresh stream each.
        """
        measurement = self.begin(size, num_groups, dimension, randomness)
        for rows, groups in rows_of(measurement.batch):
            measurement.add(rows, groups)
            del rows, groups
        return measurement.message()

    def begin(self, size: int, num_groups: int, dimension: int, randomness: Randomness) -> Measurement:
        """The same step by step, for rows that are made elsewhere; see `measure`."""
        return Measurement(self, size, num_groups, dimension, randomness)


class Measurement:
    """One measurement under way: noise and coins are drawn, rows are added as they come.

    Args:
        mechanism: its constants.
        size, num_groups, dimension, randomness: see `SampledGaussianMechanism.measure`.

    Attributes:
        batch: indices of the examples drawn, int64; secret.  Each one's row must be added once.
    """

    def __init__(
        self, mechanism: SampledGaussianMechanism, size: int, num_groups: int, dimension: int, randomness: Randomness
    ) -> None:
        self._mechanism = mechanism
        # Noise first: no failure that depends on the data can come before it or change which noise is drawn.
        self._noise = randomness.stream().rounded_normals((num_groups, dimension), mechanism.noise_multiplier * LATTICE)
        coins = randomness.stream().coins(size, mechanism.sample_rate)
        # The true ones first, in order, in an array whose size depends on `size` alone.
        self.batch: NDArray[np.int64] = np.argsort(~coins, kind="stable")[: np.count_nonzero(coins)]
        self._sums = _Sums(num_groups, dimension, mechanism.max_grad_norm)

    def add(self, rows: Tensor, groups: Tensor) -> None:
        """Rows of some examples, float [>= m, dimension], and their groups, int64 [m]; see `Rows`."""
        self._sums.add(rows, groups)

    def message(self) -> Tensor:
        """The message, float32 [num_groups, dimension]."""
        # From here on everything is post-processing of round(S + N), S integer.
        message = torch.from_numpy(self._noise).add_(self._sums.total().cpu()).to(torch.float64)
        own = self._mechanism
        return message.mul_(own.max_grad_norm / LATTICE / own.divisor).to(torch.float32)
