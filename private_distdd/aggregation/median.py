"""The coordinate-wise median over clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from private_distdd.aggregation.clients import BelowHalf
from private_distdd.aggregation.messages import over_holders
from private_distdd.aggregation.rule import register_rule


def median(messages: Tensor, counts: Tensor | None = None) -> Tensor:
    """The coordinate-wise median over clients (Yin et al. 2018), the mean of the middle two for an even number.

    It survives fewer than half corrupt clients in each coordinate, never a corrupt majority.

    Args:
        messages: float [clients, ...]; with counts plain sums, float [clients, groups, ...].
        counts: int [clients, groups]; clients without examples of a group are left out of it.

    Returns:
        float [...].
    """
    return over_holders(messages, counts, _median)


def _median(values: Tensor) -> Tensor:
    ordered = values.sort(dim=0).values
    middle = len(values) // 2
    return ordered[middle] if len(values) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


@register_rule
@dataclass(frozen=True)
class Median(BelowHalf):
    """`median`; of at least 3 clients a round."""

    name: ClassVar[str] = "median"

    def __call__(self, messages: Tensor, counts: Tensor | None = None) -> Tensor:
        """See `median`."""
        return median(messages, counts)
