"""Messages of several clients side by side: their checks, and client means where they come with counts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from private_distdd.errors import ConfigurationError


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
        return combine(messages)
    groups = []
    for group in range(counts.shape[1]):
        holders = counts[:, group] > 0
        means = messages[holders, group] / like(counts[holders, group], messages[holders, group])
        groups.append(combine(means) if len(means) else torch.zeros_like(messages[0, group]))
    return torch.stack(groups)


def like(counts: Tensor, values: Tensor) -> Tensor:
    """The counts with as many dimensions as the values, so that they divide them."""
    return counts.reshape(counts.shape + (1,) * (values.ndim - counts.ndim))
