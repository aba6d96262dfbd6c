"""Computing so that no example's bits depend on the others (A2): batches of one size, and deterministic kernels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

MICRO_BATCH = 64  # every batch is padded to this many examples, so that no example's bits depend on how many ride along


def padded(examples: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """One micro-batch: the examples, then zeros up to `MICRO_BATCH` of them; the labels likewise.

    Args:
        examples: float [m, *shape], 0 <= m <= 64.
        labels: int64 [m].

    Returns:
        float [64, *shape] and int64 [64]; buffers of one size, whatever m is.
    """
    batch = examples.new_zeros((MICRO_BATCH, *examples.shape[1:]))
    batch[: len(examples)] = examples
    targets = labels.new_zeros(MICRO_BATCH)
    targets[: len(labels)] = labels
    return batch, targets


def micro_batches(examples: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor, int]]:
    """All examples, float [n, *shape], in micro-batches, each with the number of its true ones, which come first.

    Without any example there is one micro-batch of padding: what it takes must not tell an empty batch from others.
    """
    for part, targets in zip(torch.split(examples, MICRO_BATCH), torch.split(labels, MICRO_BATCH), strict=True):
        yield *padded(part, targets), len(part)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Kernels whose bits do not depend on what else runs: what A2 asks of a client's computations."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
