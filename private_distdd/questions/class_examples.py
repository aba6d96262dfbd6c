"""The question "class_examples": the examples themselves; only without privacy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from private_distdd.data.info import DatasetInfo
from private_distdd.limits import Cost
from private_distdd.questions.arguments import class_counts_of, message_memory, refuse_tensors, require_fields
from private_distdd.questions.register import register_plain_question


@register_plain_question("class_examples")
class ClassExamples:
    """The question "class_examples": the examples themselves, for a start of S from real ones.

    Args:
        arguments: {"counts": how many examples of each class}.
        tensors: none.
        info: public class list and shape.
        device: ignored.

    Raises:
        QueryRefusedError, ModelError: arguments or tensors are not these.
    """

    def __init__(
        self, arguments: Mapping[str, Any], tensors: Mapping[str, Tensor], info: DatasetInfo, device: str
    ) -> None:
        require_fields(arguments, {"counts"})
        refuse_tensors(tensors)
        self.num_groups = sum(class_counts_of(arguments, info))
        self.dimension = int(torch.Size(info.shape).numel())

    @staticmethod
    def cost(arguments: Mapping[str, Any], info: DatasetInfo) -> Cost:
        """What an answer takes at most."""
        return Cost(message_memory(sum(class_counts_of(arguments, info)), math.prod(info.shape)), 0)

    def plain(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The drawn examples, one a group, in the order of their classes."""
        return images.flatten(1).cpu(), torch.ones(len(images), dtype=torch.int64)
