"""Batches of runs without privacy: a public, seeded draw of so many examples of each class."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from private_distdd.data.info import DatasetInfo
from private_distdd.errors import QueryRefusedError


def check_class_batch(batch: tuple[tuple[int, ...], int] | None, info: DatasetInfo) -> None:
    """Refuse a batch that does not say one number for each class.

    Raises:
        QueryRefusedError: it does not.
    """
    if batch is not None and len(batch[0]) != info.num_classes:
        raise QueryRefusedError(
            f"a class batch of {len(batch[0])} counts", f"{info.num_classes}, one a class", "Correct the query."
        )


def class_batch(batch: tuple[tuple[int, ...], int] | None, labels: Tensor, client_id: str) -> Tensor:
    """Indices of so many examples of each class, drawn without replacement; of all examples for None.

    Args:
        batch: how many of each class, and the public seed.
        labels: int64 [n], the client's own.
        client_id: clients draw differently from one seed.

    Returns:
        int64 [drawn], on the labels' device.
    """
    if batch is None:
        return torch.arange(len(labels), device=labels.device)
    counts, seed = batch
    rng = np.random.default_rng([seed, *client_id.encode()])
    own = labels.cpu().numpy()
    drawn = [rng.permutation(np.flatnonzero(own == c))[:count] for c, count in enumerate(counts)]
    return torch.from_numpy(np.concatenate([*drawn, np.empty(0, np.int64)])).to(labels.device)
