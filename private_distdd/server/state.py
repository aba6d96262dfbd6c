"""Where a run stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from private_distdd.wire.run import Run


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Where a run stands; with `run` alone, before its first query.

    Args:
        run: what the clients are asked to agree to.
        progress: JSON-able values.
        state: tensors by name.
        memory: tensors by name, for each round that is remembered; those of one round never change.
    """

    run: Run
    progress: Mapping[str, Any] = field(default_factory=dict)
    state: Mapping[str, Tensor] = field(default_factory=dict)
    memory: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)
