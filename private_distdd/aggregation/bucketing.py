"""Bucketing: a step before another rule."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from private_distdd.aggregation.messages import by_group
from private_distdd.aggregation.rule import Rule, named_rule, register_rule
from private_distdd.validate import require_count


def bucketing(messages: Tensor, counts: Tensor | None = None, size: int = 2, rule: str = "geometric_median") -> Tensor:
    """A rule, of the means of buckets of messages, which differ less than messages do (Karimireddy et al. 2022).

    The paper draws the buckets.  Here messages are put into the order of their SHA-256, and buckets are cut from that:
    new ones for every group and round, the same ones whenever a run is resumed, whatever the order of the clients.  An
    attacker that tries many messages can choose its place in the order; `Bucketing.breakdown` holds for any place.

    Args:
        messages: float [clients, groups, ...], each group by itself; without counts also float [clients, values].
        counts: int [clients, groups]; clients without examples of a group are left out of it.
        size: messages of a bucket, >= 2; the last may have fewer.
        rule: what comes after, by its name.

    Returns:
        float [groups, ...], or float [values].

    Raises:
        ConfigurationError: size is out of range, or there is no such rule.
    """
    _check(size)
    then = named_rule(rule)

    def bucketed(vectors: Tensor) -> Tensor:
        digests = [hashlib.sha256(own.cpu().numpy().tobytes()).digest() for own in vectors]
        order = sorted(range(len(vectors)), key=digests.__getitem__)
        return then(torch.stack([part.mean(dim=0) for part in torch.split(vectors[order], size)]))

    return by_group(messages, counts, bucketed)


@register_rule
@dataclass(frozen=True)
class Bucketing(Rule):
    """`bucketing`; of so many clients a round that the rule that comes after has enough buckets.

    Args:
        size: messages of a bucket, >= 2.
        rule: what comes after, by its name.

    Raises:
        ConfigurationError: size is out of range, or there is no such rule.
    """

    name: ClassVar[str] = "bucketing"
    size: int = 2
    rule: str = "geometric_median"

    def __post_init__(self) -> None:
        _check(self.size)
        named_rule(self.rule)

    def __call__(self, messages: Tensor, counts: Tensor | None = None) -> Tensor:
        """See `bucketing`."""
        return bucketing(messages, counts, self.size, self.rule)

    def require(self, num_clients: float) -> None:
        """Refuse so few clients that the rule that comes after refuses their buckets.

        Raises:
            ConfigurationError: there are too few.
        """
        named_rule(self.rule).require(math.ceil(num_clients / self.size))

    def breakdown(self, messages: int) -> int:
        """That of the rule that comes after, of the buckets: one corrupt message spoils a bucket."""
        return named_rule(self.rule).breakdown(math.ceil(messages / self.size))


def _check(size: object) -> None:
    require_count("size", size, "2 is usual; with 1 there are no buckets: take the rule itself.", at_least=2)
