"""torch's default generator, of which a process has one: borrowed, and left as it was found."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

_one = threading.RLock()  # else clients in several threads would draw one another's weights


@contextlib.contextmanager
def default_generator(seed: int | None) -> Iterator[None]:
    """While the block runs, the default generator is this thread's, begun at a public seed.

    Args:
        seed: None where nothing depends on what is drawn.
    """
    with _one, torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reseed the accelerators
        yield
