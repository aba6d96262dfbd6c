"""The geometric median over clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from private_distdd.aggregation.clients import BelowHalf
from private_distdd.aggregation.median import median
from private_distdd.aggregation.messages import by_group
from private_distdd.aggregation.rule import register_rule
from private_distdd.validate import require_number

_STEPS = 1000  # at most: they go down in any case, and where that is slow the sum of distances is flat


def geometric_median(messages: Tensor, counts: Tensor | None = None, tolerance: float = 1e-5) -> Tensor:
    """The point with the least sum of distances to the messages, by Weiszfeld's steps from the coordinate-wise median.

    It survives fewer than half corrupt messages (Lopuhaa and Rousseeuw 1991).  Distances below `tolerance` times their
    median, seen from the start, count as that (the smoothing of Pillutla et al. 2022), so that a step which lands on a
    message goes on; the first step that is no longer is the last.

    Args:
        messages: float [clients, groups, ...], each group by itself; without counts also float [clients, values].
        counts: int [clients, groups]; clients without examples of a group are left out of it.
        tolerance: of a step, in (0, 1).

    Returns:
        float [groups, ...], or float [values].

    Raises:
        ConfigurationError: the tolerance is out of range.
    """
    _check(tolerance)
    return by_group(messages, counts, lambda vectors: _weiszfeld(vectors, tolerance))


def _weiszfeld(vectors: Tensor, tolerance: float) -> Tensor:
    centre = median(vectors)
    least = tolerance * float(median(torch.linalg.vector_norm(vectors - centre, dim=1)))
    if least == 0:  # at least half of them are here
        return centre
    for _ in range(_STEPS):
        weights = torch.linalg.vector_norm(vectors - centre, dim=1).clamp(min=least).reciprocal()
        last, centre = centre, weights @ vectors / weights.sum()
        if float(torch.linalg.vector_norm(centre - last)) <= least:
            break
    return centre


@register_rule
@dataclass(frozen=True)
class GeometricMedian(BelowHalf):
    """`geometric_median`; of at least 3 clients a round.

    Args:
        tolerance: of a step, in (0, 1), of the median distance.

    Raises:
        ConfigurationError: the tolerance is out of range.
    """

    name: ClassVar[str] = "geometric_median"
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        _check(self.tolerance)

    def __call__(self, messages: Tensor, counts: Tensor | None = None) -> Tensor:
        """See `geometric_median`."""
        return geometric_median(messages, counts, self.tolerance)


def _check(tolerance: object) -> None:
    require_number("tolerance", tolerance, 0, 1, "0 < tolerance < 1", "1e-5 is usual.")
