"""Krum and multi-Krum: the messages that have most others near them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from private_distdd.aggregation.clients import AgainstBad, require_bad
from private_distdd.aggregation.messages import by_group, squared_distances
from private_distdd.aggregation.rule import register_rule


def krum(messages: Tensor, counts: Tensor | None = None, bad: int = 1) -> Tensor:
    """The message with the least sum of squared distances to its n - bad - 2 nearest others (Blanchard et al. 2017).

    Where several tie, as the closest two do when one neighbour counts, their mean.  Fewer than bad + 3 messages about a
    group, as where few clients hold a class, are compared with one neighbour each, and nothing is promised for them.

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
    return by_group(messages, counts, lambda vectors: _central(vectors, bad, 1))


def multi_krum(messages: Tensor, counts: Tensor | None = None, bad: int = 1) -> Tensor:
    """The mean of the n - bad messages that `krum` likes best (Blanchard et al. 2017, section 5).

    Args:
        messages, counts, bad: see `krum`.

    Returns:
        float [groups, ...], or float [values].

    Raises:
        ConfigurationError: bad is out of range.
    """
    require_bad(bad)
    return by_group(messages, counts, lambda vectors: _central(vectors, bad, max(1, len(vectors) - bad)))


def _central(vectors: Tensor, bad: int, kept: int) -> Tensor:
    """The mean of those whose scores are the least so many; all that tie with the last of them are among them."""
    neighbours = max(1, len(vectors) - bad - 2)
    nearest = squared_distances(vectors).sort(dim=1).values[:, 1 : neighbours + 1]  # the nearest of all is itself
    scores = nearest.sum(dim=1)
    return vectors[scores <= scores.kthvalue(kept).values].mean(dim=0)


@register_rule
@dataclass(frozen=True)
class Krum(AgainstBad):
    """`krum`; of at least 2 bad + 3 clients a round.

    An honest message then has n - bad - 2 honest others, and a corrupt one has not.
    """

    name: ClassVar[str] = "krum"
    beyond: ClassVar[int] = 3

    def __call__(self, messages: Tensor, counts: Tensor | None = None) -> Tensor:
        """See `krum`."""
        return krum(messages, counts, self.bad)


@register_rule
@dataclass(frozen=True)
class MultiKrum(AgainstBad):
    """`multi_krum`; of at least 2 bad + 3 clients a round, as `Krum`.  With one more, a bad one is kept."""

    name: ClassVar[str] = "multi_krum"
    beyond: ClassVar[int] = 3

    def __call__(self, messages: Tensor, counts: Tensor | None = None) -> Tensor:
        """See `multi_krum`."""
        return multi_krum(messages, counts, self.bad)
