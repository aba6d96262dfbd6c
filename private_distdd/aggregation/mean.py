"""The mean and the sum over clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from private_distdd.aggregation.messages import check_messages, like
from private_distdd.aggregation.rule import Rule, register_rule


def mean(messages: Tensor, counts: Tensor | None = None) -> Tensor:
    """The mean over clients; with counts the mean over examples, sum(messages) / sum(counts).

    Args:
        messages: float [clients, ...]; with counts float [clients, groups, ...] of plain sums.
        counts: int [clients, groups], examples in each sum; a group that nobody holds is zero.

    Returns:
        float [...], the messages' dtype (summed in float64: the split over clients moves rounding only).
    """
    check_messages(messages, counts)
    if counts is None:
        return messages.mean(dim=0, dtype=torch.float64).to(messages.dtype)
    total = counts.sum(dim=0).clamp(min=1)
    return (messages.sum(dim=0, dtype=torch.float64) / like(total, messages[0])).to(messages.dtype)


def sum(messages: Tensor, counts: Tensor | None = None) -> Tensor:
    """The sum over clients; the counts change nothing.

    Args:
        messages: float [clients, ...].
        counts: ignored, as sums need none.

    Returns:
        float [...].
    """
    check_messages(messages, counts)
    return messages.sum(dim=0, dtype=torch.float64).to(messages.dtype)


@register_rule
@dataclass(frozen=True)
class Mean(Rule):
    """`mean`."""

    name: ClassVar[str] = "mean"

    def __call__(self, messages: Tensor, counts: Tensor | None = None) -> Tensor:
        """See `mean`."""
        return mean(messages, counts)


@register_rule
@dataclass(frozen=True)
class Sum(Rule):
    """`sum`."""

    name: ClassVar[str] = "sum"

    def __call__(self, messages: Tensor, counts: Tensor | None = None) -> Tensor:
        """See `sum`."""
        return sum(messages, counts)
