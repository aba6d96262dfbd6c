"""Computing so that no example's bits depend on the others (A2): batches of one size, and deterministic kernels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

MICRO_BATCH = 64  # every batch is padded to this many examples, so that no example's bits depend on how many ride along


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Kernels whose bits do not depend on what else runs: what A2 asks of a client's computations."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
