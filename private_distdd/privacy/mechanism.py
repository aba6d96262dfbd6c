"""The one mechanism: Poisson batch, clipped per-example rows on a lattice, integer noise, public divisor.

It knows nothing of training: the examples' rows come in as a callable.  Every noisy message of the library is
the return value of `SampledGaussianMechanism.measure`; clean sums never leave this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
    wide = rows.to(torch.float64, copy=True)
    norms = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
    # float32 entries cannot overflow float64 squares, so a non-finite norm means a non-finite entry.
    wide[~torch.isfinite(norms).squeeze(1)] = 0.0
    # The factor stops 2^-40 short of C, more than float64 rounding can add; the integer check below is the proof.
    factor = torch.nan_to_num((max_grad_norm / norms).clamp_(max=1.0)) * (LATTICE / max_grad_norm) * (1 - 2.0**-40)
    wide = wide.mul_(factor).trunc_()
    # Coordinate by coordinate first: beyond that the cast and the squares could wrap around.
    wide[~(wide.abs() <= LATTICE).all(dim=1)] = 0.0
    points = wide.to(torch.int64)
    # In parts, so that no sum can pass 2^63: each is at most 2^22 squares of at most 2^40.
    squares = [part.square().sum(dim=1) for part in torch.split(points, 1 << 22, dim=1)]
    points[torch.stack(squares).clamp_(max=2 * LATTICE**2).sum(dim=0) > LATTICE**2] = 0
    return points


def lattice_sums(batches: Iterable[Rows], num_groups: int, dimension: int, max_grad_norm: float) -> Tensor:
    """Exact int64 sums of clipped rows by group, [num_groups, dimension], in lattice units, on the rows' device."""
    sums: Tensor | None = None
    for rows, groups in batches:
        if sums is None:
            sums = torch.zeros(num_groups, dimension, dtype=torch.int64, device=rows.device)
        # Integers, so the order of addition does not matter, on a GPU either.
        sums.index_add_(0, groups.to(rows.device), clip_to_lattice(rows, max_grad_norm)[: len(groups)])
    return torch.zeros(num_groups, dimension, dtype=torch.int64) if sums is None else sums


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
        # Noise first: no failure that depends on the data can come before it or change which noise is drawn.
        noise = randomness.stream().rounded_normals((num_groups, dimension), self.noise_multiplier * LATTICE)
        coins = randomness.stream().coins(size, self.sample_rate)
        # The true ones first, in order, in an array whose size depends on `size` alone.
        batch = np.argsort(~coins, kind="stable")[: np.count_nonzero(coins)]
        sums = lattice_sums(rows_of(batch), num_groups, dimension, self.max_grad_norm)
        # From here on everything is post-processing of round(S + N), S integer.
        message = (sums.cpu() + torch.from_numpy(noise)).to(torch.float64) * (
            self.max_grad_norm / LATTICE / self.divisor
        )
        return message.to(torch.float32)
