"""Messages of several clients side by side: their checks, and client means where they come with counts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from private_distdd.errors import ConfigurationError

_PART = 1 << 20  # values sorted at a time


def check_messages(messages: Tensor, counts: Tensor | None) -> None:
    """Refuse what are no messages of at least one client.

    Raises:
        ConfigurationError: no clients, or counts of another shape.
    """
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
    groups = []
    for group in range(counts.shape[1]):
        holders = counts[:, group] > 0
        means = messages[holders, group] / like(counts[holders, group], messages[holders, group])
        groups.append(_in_parts(means, combine) if len(means) else torch.zeros_like(messages[0, group]))
    return torch.stack(groups)


def _in_parts(messages: Tensor, combine: Callable[[Tensor], Tensor]) -> Tensor:
    """`combine`, which works coordinate by coordinate, on some of them at a time: sorting takes memory."""
    parts = torch.split(messages.reshape(len(messages), -1), max(1, _PART // len(messages)), dim=1)
    return torch.cat([combine(part) for part in parts]).reshape(messages.shape[1:])


def like(counts: Tensor, values: Tensor) -> Tensor:
    """The counts with as many dimensions as the values, so that they divide them."""
    return counts.reshape(counts.shape + (1,) * (values.ndim - counts.ndim))
