"""The lattice as it was first written: whole micro-batches in fresh int64 arrays.  The fast form's oracle."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from private_distdd.privacy.mechanism import LATTICE, Rows


def clip_to_lattice(rows: Tensor, max_grad_norm: float) -> Tensor:
    """int64 [m, d]: norm and scale in float64, `trunc`, and a check in whole int64 arithmetic."""
    wide = rows.to(torch.float64, copy=True)
    norms = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
    wide[~torch.isfinite(norms).squeeze(1)] = 0.0
    factor = torch.nan_to_num((max_grad_norm / norms).clamp_(max=1.0)) * (LATTICE / max_grad_norm) * (1 - 2.0**-40)
    wide = wide.mul_(factor).trunc_()
    wide[~(wide.abs() <= LATTICE).all(dim=1)] = 0.0
    points = wide.to(torch.int64)
    squares = [part.square().sum(dim=1) for part in torch.split(points, 1 << 22, dim=1)]
    points[torch.stack(squares).clamp_(max=2 * LATTICE**2).sum(dim=0) > LATTICE**2] = 0
    return points


def lattice_sums(batches: Iterable[Rows], num_groups: int, dimension: int, max_grad_norm: float) -> Tensor:
    """int64 [num_groups, dimension]."""
    sums = torch.zeros(num_groups, dimension, dtype=torch.int64)
    for rows, groups in batches:
        sums.index_add_(0, groups, clip_to_lattice(rows, max_grad_norm)[: len(groups)])
    return sums
