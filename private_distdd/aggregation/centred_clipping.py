"""Centred clipping over clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from private_distdd.aggregation.clients import BelowHalf
from private_distdd.aggregation.median import median
from private_distdd.aggregation.messages import by_group
from private_distdd.aggregation.rule import register_rule
from private_distdd.validate import require_count


def centred_clipping(messages: Tensor, counts: Tensor | None = None, steps: int = 3) -> Tensor:
    """A centre that each step moves by the mean of the messages' ways to it, clipped (Karimireddy et al. 2021).

    The paper starts from the last round's result and clips to a radius that the user knows.  Rules remember nothing and
    messages have any scale, so here the start is the coordinate-wise median, and the radius of a step the median
    distance from the centre: both survive fewer than half corrupt messages, and so does the whole.

    Args:
        messages: float [clients, groups, ...], each group by itself; without counts also float [clients, values].
        counts: int [clients, groups]; clients without examples of a group are left out of it.
        steps: >= 1.

    Returns:
        float [groups, ...], or float [values].

    Raises:
        ConfigurationError: steps is out of range.
    """
    _check(steps)
    return by_group(messages, counts, lambda vectors: _clipped(vectors, steps))


def _clipped(vectors: Tensor, steps: int) -> Tensor:
    centre = median(vectors)
    for _ in range(steps):
        ways = vectors - centre
        distances = torch.linalg.vector_norm(ways, dim=1)
        shares = (median(distances) / distances).nan_to_num(nan=1.0).clamp(max=1)  # 0 / 0: it is there already
        centre = centre + shares @ ways / len(vectors)
    return centre


@register_rule
@dataclass(frozen=True)
class CentredClipping(BelowHalf):
    """`centred_clipping`; of at least 3 clients a round.

    Args:
        steps: >= 1.

    Raises:
        ConfigurationError: steps is out of range.
    """

    name: ClassVar[str] = "centred_clipping"
    steps: int = 3

    def __post_init__(self) -> None:
        _check(self.steps)

    def __call__(self, messages: Tensor, counts: Tensor | None = None) -> Tensor:
        """See `centred_clipping`."""
        return centred_clipping(messages, counts, self.steps)


def _check(steps: object) -> None:
    require_count("steps", steps, "3 is usual.")
