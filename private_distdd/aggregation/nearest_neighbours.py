"""Nearest-neighbour mixing: a step before another rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from private_distdd.aggregation.clients import AgainstBad, require_bad
from private_distdd.aggregation.messages import by_group, squared_distances
from private_distdd.aggregation.rule import named_rule, register_rule


def nearest_neighbours(
    messages: Tensor, counts: Tensor | None = None, bad: int = 1, rule: str = "geometric_median"
) -> Tensor:
    """A rule, of messages each of which became the mean of its n - bad nearest ones, itself among them.

    Mixing brings honest messages closer together where clients hold different data (NNM, Allouah et al. 2023).

    Args:
        messages: float [clients, groups, ...], each group by itself; without counts also float [clients, values].
        counts: int [clients, groups]; clients without examples of a group are left out of it.
        bad: corrupt clients, >= 1.
        rule: what comes after, by its name.

    Returns:
        float [groups, ...], or float [values].

    Raises:
        ConfigurationError: bad is out of range, or there is no such rule.
    """
    require_bad(bad)
    then = named_rule(rule)

    def mixed(vectors: Tensor) -> Tensor:
        near = squared_distances(vectors).argsort(dim=1, stable=True)[:, : max(1, len(vectors) - bad)]
        chosen = vectors.new_zeros(len(vectors), len(vectors)).scatter_(1, near, 1 / near.shape[1])
        return then(chosen @ vectors)

    return by_group(messages, counts, mixed)


@register_rule
@dataclass(frozen=True)
class NearestNeighbours(AgainstBad):
    """`nearest_neighbours`; of more than 2 bad clients a round.

    Args:
        bad: corrupt clients, >= 1.
        rule: what comes after, by its name.

    Raises:
        ConfigurationError: bad is out of range, or there is no such rule.
    """

    name: ClassVar[str] = "nearest_neighbours"
    rule: str = "geometric_median"

    def __post_init__(self) -> None:
        super().__post_init__()
        named_rule(self.rule)

    def __call__(self, messages: Tensor, counts: Tensor | None = None) -> Tensor:
        """See `nearest_neighbours`."""
        return nearest_neighbours(messages, counts, self.bad, self.rule)

    def require(self, num_clients: float) -> None:
        """Refuse a half, or more, that is corrupt, and what the rule that comes after refuses.

        Raises:
            ConfigurationError: there are too few clients.
        """
        super().require(num_clients)
        named_rule(self.rule).require(num_clients)

    def breakdown(self, messages: int) -> int:
        """`bad`, of more than twice as many, or that of the rule that comes after, if it is less."""
        return min(super().breakdown(messages), named_rule(self.rule).breakdown(messages))
