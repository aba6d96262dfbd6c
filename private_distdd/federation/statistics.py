"""What a query may ask: registered statistics of a client's examples, by name.  Never code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from private_distdd.data.datasets import DatasetInfo
from private_distdd.errors import ModelError, QueryRefusedError
from private_distdd.gradients import MICRO_BATCH, PerExampleGradients, sum_gradient
from private_distdd.models import ModelSpec
from private_distdd.privacy.mechanism import Rows

GRANULARITIES = ("class", "joint")


class Statistic(Protocol):
    """One registered statistic, made for one query.

    Attributes:
        num_groups, dimension: shape of a message's values; public, the same for all data.
    """

    num_groups: int
    dimension: int

    def rows(self, images: Tensor, labels: Tensor) -> Iterator[Rows]:
        """Per example: a row float32 [dimension] that depends on this example alone (A2), and its group."""
        ...

    def plain(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Without privacy: sums by group, float32 [num_groups, dimension], and counts int64 [num_groups]."""
        ...


class ClassGradients:
    """The registered statistic "class_gradients": gradients of a network at given weights, summed by class.

    Args:
        arguments: {"model": ModelSpec as JSON, "granularity": "class" (one sum a class) or "joint" (one sum in all)}.
        tensors: the network's state, by name.
        info: public class list and image shape.
        device: where the gradients are computed.

    Raises:
        ModelError: the network is not registered, breaks an assumption of the theorem, or the state does not fit.
    """

    def __init__(
        self, arguments: Mapping[str, Any], tensors: Mapping[str, Tensor], info: DatasetInfo, device: str
    ) -> None:
        if set(arguments) != {"model", "granularity"} or arguments["granularity"] not in GRANULARITIES:
            raise ModelError(f"arguments {arguments!r}", f"model, and granularity in {GRANULARITIES}", "Correct them.")
        self._joint = arguments["granularity"] == "joint"
        spec = ModelSpec.from_json(arguments["model"])
        spec.validate(info.image_shape, info.num_classes)
        self._model = spec.build(info.image_shape, info.num_classes)
        try:
            self._model.load_state_dict(dict(tensors))
        except RuntimeError as error:
            raise ModelError("weights that do not fit the network", "its own state, by name", str(error)) from error
        self._model.to(device)
        self.num_groups = 1 if self._joint else info.num_classes
        self.dimension = sum(p.numel() for p in self._model.parameters() if p.requires_grad)

    def groups(self, labels: Tensor) -> Tensor:
        """The group each example is summed into, int64 [n]."""
        return torch.zeros_like(labels) if self._joint else labels

    @cached_property
    def _per_example(self) -> PerExampleGradients:
        return PerExampleGradients(self._model)

    def rows(self, images: Tensor, labels: Tensor) -> Iterator[Rows]:
        """Per-example gradients with their groups: what the mechanism clips, sums and covers with noise."""
        for rows, targets in self._per_example.rows(images, labels):
            yield rows, self.groups(targets)

    def plain(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Plain sums by group and their counts; chunk sums are added in float64, so the split moves rounding only."""
        sums = images.new_zeros((self.num_groups, self.dimension), dtype=torch.float64)
        groups = self.groups(labels)
        for group in torch.unique(groups).tolist():
            members = (groups == group).nonzero().squeeze(1)
            for part in torch.split(members, MICRO_BATCH):
                sums[group] += sum_gradient(self._model, images[part], labels[part])
        return sums.to("cpu", torch.float32), torch.bincount(groups, minlength=self.num_groups).cpu()


class ClassExamples:
    """The registered statistic "class_examples": the images themselves, for a start of S from real ones.

    Only without privacy: asked under a plan, it is refused before anything is charged.

    Args:
        arguments: {"counts": how many examples of each class}.
        tensors: none.
        info: public class list and image shape.
        device: ignored.
    """

    def __init__(
        self, arguments: Mapping[str, Any], tensors: Mapping[str, Tensor], info: DatasetInfo, device: str
    ) -> None:
        self.num_groups = int(sum(arguments["counts"]))
        self.dimension = int(torch.Size(info.image_shape).numel())

    def rows(self, images: Tensor, labels: Tensor) -> Iterator[Rows]:
        """Never: an image is no sum that noise could cover."""
        raise QueryRefusedError("real images under a privacy plan", "runs without privacy", "Start from noise.")

    def plain(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The drawn images, one a group, in the order of their classes."""
        return images.flatten(1).cpu(), torch.ones(len(images), dtype=torch.int64)


class ClassCounts:
    """The registered statistic "class_counts": how many examples of each class; only without privacy.

    With it the server draws batches over clients as if all data were in one place.
    """

    dimension = 0

    def __init__(
        self, arguments: Mapping[str, Any], tensors: Mapping[str, Tensor], info: DatasetInfo, device: str
    ) -> None:
        self.num_groups = info.num_classes

    def rows(self, images: Tensor, labels: Tensor) -> Iterator[Rows]:
        """Never: exact counts cannot leave under a plan."""
        raise QueryRefusedError("class counts under a privacy plan", "runs without privacy", "Do not ask for them.")

    def plain(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """No values, and the counts."""
        return torch.zeros(self.num_groups, 0), torch.bincount(labels, minlength=self.num_groups).cpu()


STATISTICS: dict[str, type[ClassGradients] | type[ClassExamples] | type[ClassCounts]] = {
    "class_gradients": ClassGradients,
    "class_examples": ClassExamples,
    "class_counts": ClassCounts,
}
_WITHOUT_PRIVACY_ONLY = ("class_examples", "class_counts")


def build_statistic(
    name: str,
    arguments: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    info: DatasetInfo,
    device: str,
    private: bool,
) -> Statistic:
    """The statistic that a query names.

    Raises:
        QueryRefusedError: unknown name, or one that exists without privacy only.
        ModelError: as the statistic's own.
    """
    if name not in STATISTICS or (private and name in _WITHOUT_PRIVACY_ONLY):
        raise QueryRefusedError(
            f"statistic {name!r}, {'with' if private else 'without'} privacy",
            f"one of {sorted(STATISTICS)}; {_WITHOUT_PRIVACY_ONLY} without privacy only",
            "Ask for a statistic that the client knows.",
        )
    return STATISTICS[name](arguments, tensors, info, device)
