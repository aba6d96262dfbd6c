"""The question "class_counts": how many examples of each class; only without privacy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from private_distdd.data.info import DatasetInfo
from private_distdd.limits import Cost
from private_distdd.questions.arguments import refuse_tensors, require_fields
from private_distdd.questions.register import register_plain_question


@register_plain_question("class_counts")
class ClassCounts:
    """The question "class_counts": how many examples of each class; only without privacy.

    With it the server draws batches over clients as if all data were in one place.
    """

    dimension = 0

    def __init__(
        self, arguments: Mapping[str, Any], tensors: Mapping[str, Tensor], info: DatasetInfo, device: str
    ) -> None:
        require_fields(arguments, set())
        refuse_tensors(tensors)
        self.num_groups = info.num_classes

    @staticmethod
    def cost(arguments: Mapping[str, Any], info: DatasetInfo) -> Cost:
        """Nothing to speak of."""
        return Cost(0.0, 0.0)

    def plain(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """No values, and the counts."""
        return torch.zeros(self.num_groups, 0), torch.bincount(labels, minlength=self.num_groups).cpu()
