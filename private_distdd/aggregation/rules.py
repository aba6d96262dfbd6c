"""From the clients' messages to one: pure functions Tensor [clients, ...] -> Tensor [...].

With privacy the messages are noisy sums over a public divisor and every client counts in every class.  Without privacy
they come with `counts`: then the messages are plain sums, `mean` is the exact mean over all examples, and the robust
aggregators work on client means, leaving out of a class the clients that hold no example of it.

All aggregation is post-processing of the messages: free of charge, and no aggregator changes what a message costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from private_distdd.errors import ConfigurationError

Aggregator: TypeAlias = Callable[[Tensor, Tensor | None], Tensor]


def mean(messages: Tensor, counts: Tensor | None = None) -> Tensor:
    """The mean over clients; with counts the mean over examples, sum(messages) / sum(counts).

    Args:
        messages: float [clients, ...]; with counts float [clients, groups, ...] of plain sums.
        counts: int [clients, groups], examples in each sum; a group that nobody holds is zero.

    Returns:
        float [...], the messages' dtype (summed in float64: the split over clients moves rounding only).
    """
    _check(messages, counts)
    if counts is None:
        return messages.mean(dim=0, dtype=torch.float64).to(messages.dtype)
    total = counts.sum(dim=0).clamp(min=1)
    return (messages.sum(dim=0, dtype=torch.float64) / _like(total, messages[0])).to(messages.dtype)


def sum(messages: Tensor, counts: Tensor | None = None) -> Tensor:
    """The sum over clients; the counts change nothing.

    Args:
        messages: float [clients, ...].
        counts: ignored, as sums need none.

    Returns:
        float [...].
    """
    _check(messages, counts)
    return messages.sum(dim=0, dtype=torch.float64).to(messages.dtype)


def median(messages: Tensor, counts: Tensor | None = None) -> Tensor:
    """The coordinate-wise median over clients (Yin et al. 2018), the mean of the middle two for an even number.

    It survives fewer than half corrupt clients in each coordinate, never a corrupt majority.

    Args:
        messages: float [clients, ...]; with counts plain sums, float [clients, groups, ...].
        counts: int [clients, groups]; clients without examples of a group are left out of it.

    Returns:
        float [...].
    """
    return _robust(messages, counts, _median)


def trimmed_mean(messages: Tensor, counts: Tensor | None = None, trim: float = 0.1) -> Tensor:
    """The coordinate-wise mean without the floor(trim * clients) smallest and largest values (Yin et al. 2018).

    Args:
        messages: float [clients, ...]; with counts plain sums, float [clients, groups, ...].
        counts: int [clients, groups]; clients without examples of a group are left out of it.
        trim: share cut at each end, 0 <= trim < 0.5.

    Returns:
        float [...].

    Raises:
        ConfigurationError: trim is out of range.
    """
    check_trim(trim)

    def trimmed(values: Tensor) -> Tensor:
        cut = math.floor(trim * len(values))
        return values.sort(dim=0).values[cut : len(values) - cut].mean(dim=0)

    return _robust(messages, counts, trimmed)


AGGREGATORS: dict[str, Callable[..., Tensor]] = {
    "mean": mean,
    "sum": sum,
    "median": median,
    "trimmed_mean": trimmed_mean,
}


def require_aggregator(name: str, num_clients: float, trim: float) -> Aggregator:
    """The named aggregator, ready for `num_clients` messages.

    Raises:
        ConfigurationError: unknown name, trim out of range, or so few clients that it would be a plain mean.
    """
    if name not in AGGREGATORS:
        raise ConfigurationError(f"aggregator = {name!r}", f"one of {sorted(AGGREGATORS)}", "Choose one of these.")
    if name == "trimmed_mean":
        check_trim(trim)
        if trim * num_clients < 1:
            raise ConfigurationError(
                f"trimmed_mean with trim = {trim} and {num_clients} clients asked a round",
                "at least 1 / trim clients (trim > 0), so that one is cut at each end",
                "Ask more clients, or trim more.",
            )
        return lambda messages, counts: trimmed_mean(messages, counts, trim)
    if name == "median" and num_clients < 3:
        raise ConfigurationError(
            f"median of {num_clients} clients asked a round", "at least 3", "With fewer it is the mean: use that."
        )
    return AGGREGATORS[name]


def check_trim(trim: float) -> None:
    """Refuse a trim that leaves nothing.

    Raises:
        ConfigurationError: trim is not in [0, 0.5).
    """
    if isinstance(trim, bool) or not isinstance(trim, int | float) or not 0 <= trim < 0.5:
        raise ConfigurationError(f"trim = {trim!r}", "0 <= trim < 0.5", "0.1 cuts a tenth of the clients at each end.")


def _median(values: Tensor) -> Tensor:
    ordered = values.sort(dim=0).values
    middle = len(values) // 2
    return ordered[middle] if len(values) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _robust(messages: Tensor, counts: Tensor | None, combine: Callable[[Tensor], Tensor]) -> Tensor:
    _check(messages, counts)
    if counts is None:
        return combine(messages)
    groups = []
    for group in range(counts.shape[1]):
        holders = counts[:, group] > 0
        means = messages[holders, group] / _like(counts[holders, group], messages[holders, group])
        groups.append(combine(means) if len(means) else torch.zeros_like(messages[0, group]))
    return torch.stack(groups)


def _like(counts: Tensor, values: Tensor) -> Tensor:
    return counts.reshape(counts.shape + (1,) * (values.ndim - counts.ndim))


def _check(messages: Tensor, counts: Tensor | None) -> None:
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
