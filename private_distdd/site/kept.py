"""What a client keeps of one query for the next: a fixed public map's outputs for all of its examples."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from private_distdd.networks.micro_batch import micro_batches
from private_distdd.questions.question import FixedMap


class KeptOutputs:
    """Outputs of the fixed map that was asked for last, for all examples of one client.

    They take n x d x 4 bytes, for n examples and d values of an output, until another map is asked for.
    """

    def __init__(self) -> None:
        self._kept: tuple[Hashable, Tensor] | None = None

    def of(
        self, examples: Tensor, fixed: FixedMap, report: Callable[[int, int], object] = lambda done, of: None
    ) -> Tensor:
        """The map's outputs, float32 [n, ...]; computed where they are not kept, which depends on no query's coins.

        Args:
            examples: float32 [n, *shape]: the client's, the same in every call.
            fixed: the map.
            report: called meanwhile with how many examples of how many are done.
        """
        if self._kept is None or self._kept[0] != fixed.key:
            self._kept = None  # the old ones make room, and after a failure there are none
            self._kept = fixed.key, _outputs(examples, fixed, report)
        return self._kept[1]


def _outputs(examples: Tensor, fixed: FixedMap, report: Callable[[int, int], object]) -> Tensor:
    """In micro-batches of one size, at least one; each output is written where it stays."""
    outputs, done = examples.new_empty(0), 0
    for part, _, count in micro_batches(examples, torch.zeros(len(examples), dtype=torch.int64)):
        found = fixed.outputs(part)
        if not done:
            outputs = found.new_empty((len(examples), *found.shape[1:]))
        outputs[done : done + count] = found[:count]
        done += count
        report(done, len(examples))
    return outputs
