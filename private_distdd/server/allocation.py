"""Who draws how much without privacy, and messages side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from private_distdd.wire.message import Message


def stack(messages: Sequence[Message]) -> tuple[Tensor, Tensor | None]:
    """Messages as one tensor, float32 [clients, groups, dimension], and counts int64 [clients, groups], if any."""
    counts = [message.counts for message in messages if message.counts is not None]
    return torch.stack([message.values for message in messages]), torch.stack(counts) if counts else None


def allocate(
    counts: Mapping[str, Sequence[int]], client_ids: Sequence[str], per_class: int, rng: np.random.Generator
) -> dict[str, tuple[int, ...]]:
    """How many examples of each class each client draws, as if all their data were in one place.

    Args:
        counts: examples held of each class, by client.
        client_ids: who draws.
        per_class: how many in all; fewer where they hold fewer.
        rng: public.
    """
    if not client_ids:
        return {}
    held = np.array([counts[client_id] for client_id in client_ids])
    drawn = [rng.multivariate_hypergeometric(column, min(per_class, column.sum())) for column in held.T]
    return {client_id: tuple(map(int, row)) for client_id, row in zip(client_ids, np.array(drawn).T, strict=True)}
