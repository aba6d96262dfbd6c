"""Messages of several clients side by side: their checks, and client means where they come with counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from private_distdd.errors import ConfigurationError
from private_distdd.validate import require_kind

_PART = 1 << 20  # values sorted at a time


def check_messages(messages: Tensor, counts: Tensor | None) -> None:
    """Refuse what are no messages of at least one client.

    Raises:
        ConfigurationError: no tensor, no clients, or counts of another shape.
    """
    require_kind("messages", messages, Tensor, "a tensor [clients, ...]", "Stack them: torch.stack(messages).")
    if messages.ndim < 1 or len(messages) < 1:
        raise ConfigurationError(
            f"messages of shape {tuple(messages.shape)}", "[clients, ...], at least one client", "Ask some clients."
        )
    if counts is not None and counts.shape != messages.shape[:2]:
        raise ConfigurationError(
            f"counts of shape {tuple(counts.shape)} for messages of shape {tuple(messages.shape)}",
            "counts [clients, groups] for messages [clients, groups, ...]",
            "Pass one count for each client and group.",
        )


def over_holders(messages: Tensor, counts: Tensor | None, combine: Callable[[Tensor], Tensor]) -> Tensor:
    """`combine` over all clients; with counts over the means of those that hold examples of a group, group by group."""
    check_messages(messages, counts)
    if counts is None:
        return _in_parts(messages, combine)
    return torch.stack([_over_some(own, partial(_in_parts, combine=combine)) for own in _groups(messages, counts)])


def by_group(messages: Tensor, counts: Tensor | None, combine: Callable[[Tensor], Tensor]) -> Tensor:
    """`combine`, from float64 [clients, values] to [values], on each group's messages by themselves, as whole vectors.

    Args:
        messages: float [clients, groups, ...]; without counts also float [clients, values] or [clients], one group.
        counts: int [clients, groups]; then of the means of those that hold examples of a group.
        combine: the rule; the messages of another group do not concern it.

    Returns:
        float [groups, ...], or [values] or a scalar; the messages' dtype.  A group that nobody holds is zero.
    """
    check_messages(messages, counts)

    def whole(own: Tensor) -> Tensor:
        return combine(own.reshape(len(own), -1).to(torch.float64)).to(own.dtype).reshape(own.shape[1:])

    if counts is None and messages.ndim < 3:
        return whole(messages)
    return torch.stack([_over_some(own, whole) for own in _groups(messages, counts)])


def squared_distances(vectors: Tensor) -> Tensor:
    """Of all pairs, float64 [n, values] -> float64 [n, n]; not by inner products: far outliers would drown others."""
    return torch.stack([(vectors - own).square().sum(dim=1) for own in vectors])


def _groups(messages: Tensor, counts: Tensor | None) -> Iterator[Tensor]:
    """The messages about each group, float [clients, ...]; with counts the means of its holders."""
    for group in range(messages.shape[1]):
        own = messages[:, group]
        if counts is not None:
            holders = counts[:, group] > 0
            own = own[holders] / like(counts[holders, group], own[holders])
        yield own


def _over_some(own: Tensor, combine: Callable[[Tensor], Tensor]) -> Tensor:
    """`combine`, or zero where nobody is."""
    return combine(own) if len(own) else own.new_zeros(own.shape[1:])


def _in_parts(messages: Tensor, combine: Callable[[Tensor], Tensor]) -> Tensor:
    """`combine`, which works coordinate by coordinate, on some of them at a time: sorting takes memory."""
    parts = torch.split(messages.reshape(len(messages), -1), max(1, _PART // len(messages)), dim=1)
    return torch.cat([combine(part) for part in parts]).reshape(messages.shape[1:])


def like(counts: Tensor, values: Tensor) -> Tensor:
    """The counts with as many dimensions as the values, so that they divide them."""
    return counts.reshape(counts.shape + (1,) * (values.ndim - counts.ndim))
