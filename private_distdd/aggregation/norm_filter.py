"""The mean over clients without the longest messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from private_distdd.aggregation.clients import AgainstBad, require_bad
from private_distdd.aggregation.messages import by_group
from private_distdd.aggregation.rule import register_rule


def norm_filter(messages: Tensor, counts: Tensor | None = None, bad: int = 1) -> Tensor:
    """The mean of the n - bad messages of least norm, and of those that tie with the longest (Gupta and Vaidya 2020).

    It sees length alone: a message of usual norm in a wrong direction passes.

    Args:
        messages: float [clients, groups, ...], each group by itself; without counts also float [clients, values].
        counts: int [clients, groups]; clients without examples of a group are left out of it.
        bad: corrupt clients, >= 1.

    Returns:
        float [groups, ...], or float [values].

    Raises:
        ConfigurationError: bad is out of range.
    """
    require_bad(bad)

    def shortest(vectors: Tensor) -> Tensor:
        norms = torch.linalg.vector_norm(vectors, dim=1)
        return vectors[norms <= norms.kthvalue(max(1, len(vectors) - bad)).values].mean(dim=0)

    return by_group(messages, counts, shortest)


@register_rule
@dataclass(frozen=True)
class NormFilter(AgainstBad):
    """`norm_filter`; of more than 2 bad clients a round."""

    name: ClassVar[str] = "norm_filter"

    def __call__(self, messages: Tensor, counts: Tensor | None = None) -> Tensor:
        """See `norm_filter`."""
        return norm_filter(messages, counts, self.bad)
