"""The question "class_gradients": gradients of a network at given weights, summed by class."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ModelError
from private_distdd.limits import Cost
from private_distdd.networks.micro_batch import MICRO_BATCH
from private_distdd.networks.per_example import PerExampleGradients, examples_at_once
from private_distdd.networks.register import FACTORIES
from private_distdd.networks.spec import ModelSpec
from private_distdd.networks.state import load_state
from private_distdd.networks.zeros import fill_zeros
from private_distdd.questions.arguments import message_memory
from private_distdd.questions.audited import Asked, SpecificAttack
from private_distdd.questions.per_example import sum_gradient
from private_distdd.questions.question import FixedMap, Measurable, Measuring, OnOutputs
from private_distdd.questions.register import register_question

GRANULARITIES = ("class", "joint")
_ACTIVATION = 16  # bytes a value that a layer hands on: kept, differentiated, and unfolded by per-example rules


@register_question("class_gradients")
class ClassGradients:
    """The question "class_gradients": gradients of a network at given weights, summed by class.

    Args:
        arguments: {"model": ModelSpec as JSON, "granularity": "class" (one sum a class) or "joint" (one sum in all)}.
        tensors: the network's state, by name.
        info: public class list and image shape.
        device: where the gradients are computed.

    Raises:
        ModelError: the network is not registered, breaks an assumption of the theorem, or the state does not fit.
    """

    attacks: ClassVar[frozenset[SpecificAttack]] = frozenset({"inversion", "membership"})
    events: ClassVar[int] = 1

    def __init__(
        self, arguments: Mapping[str, Any], tensors: Mapping[str, Tensor], info: DatasetInfo, device: str
    ) -> None:
        self._spec, self._joint = self._read(arguments)
        self._given = arguments, info, device
        self._spec.validate(info.shape, info.num_classes)
        self._model = self._spec.build(info.shape, info.num_classes)
        load_state(self._model, tensors)
        self._model.to(device)
        self.num_groups = 1 if self._joint else info.num_classes
        self.dimension = sum(p.numel() for p in self._model.parameters() if p.requires_grad)

    @staticmethod
    def _read(arguments: Mapping[str, Any]) -> tuple[ModelSpec, bool]:
        """The network, and whether its gradients are summed over all classes."""
        if set(arguments) != {"model", "granularity"} or arguments["granularity"] not in GRANULARITIES:
            raise ModelError(f"arguments {arguments!r}", f"model, and granularity in {GRANULARITIES}", "Correct them.")
        return ModelSpec.from_json(arguments["model"]), arguments["granularity"] == "joint"

    @classmethod
    def cost(cls, arguments: Mapping[str, Any], info: DatasetInfo) -> Cost:
        """What an answer takes at most."""
        spec, joint = cls._read(arguments)
        size = spec.size(info.shape, info.num_classes)
        groups = 1 if joint else info.num_classes
        memory = message_memory(groups, size.parameters)
        memory += examples_at_once(size.activations) * _ACTIVATION * size.activations
        return Cost(memory, size.work)

    def public(self) -> ClassGradients:
        """The same at the weights of seed 0, and at others where these are zero."""
        arguments, info, device = self._given
        public = ModelSpec.from_json(arguments["model"]).build(info.shape, info.num_classes, seed=0)
        fill_zeros(public)
        return ClassGradients(arguments, public.state_dict(), info, device)

    def groups(self, labels: Tensor) -> Tensor:
        """The group each example is summed into, int64 [n]."""
        return torch.zeros_like(labels) if self._joint else labels

    @property
    def together(self) -> int:
        """How many examples of a micro-batch are computed at once: on a GPU all of them."""
        _, info, device = self._given
        if torch.device(device).type != "cpu":
            return MICRO_BATCH
        return examples_at_once(self._spec.size(info.shape, info.num_classes).activations)

    @cached_property
    def _per_example(self) -> PerExampleGradients:
        return PerExampleGradients(self._model, self.together)

    def rows(self, images: Tensor, labels: Tensor) -> Tensor:
        """Per-example gradients, float32 [n, dimension]: what the mechanism clips, sums and covers with noise."""
        return self._per_example.rows(images, labels)

    @cached_property
    def measured(self) -> Measurable:
        """Itself, or the same of features that a client computes once: see `PerExampleGradients.has_features`."""
        own, info = self._per_example, self._given[1]
        if not own.has_features:
            return self
        key = FACTORIES[self._spec.name], self._spec, info.shape, info.num_classes  # a name may be registered anew
        return OnOutputs(self, FixedMap(key, own.features), own.rows_of_features)

    def answer(self) -> Measuring:
        """One measurement."""
        return (yield self.measured)

    def plain(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Plain sums by group and their counts; chunk sums are added in float64, so the split moves rounding only."""
        sums = images.new_zeros((self.num_groups, self.dimension), dtype=torch.float64)
        groups = self.groups(labels)
        for group in torch.unique(groups).tolist():
            members = (groups == group).nonzero().squeeze(1)
            for part in torch.split(members, MICRO_BATCH):
                sums[group] += sum_gradient(self._model, images[part], labels[part])
        return sums.to("cpu", torch.float32), torch.bincount(groups, minlength=self.num_groups).cpu()

    @staticmethod
    def examples(info: DatasetInfo, width: int) -> Mapping[str, Asked]:
        """For audits: the gradients of a small network at the weights of seed 0, by class and of all together."""
        spec = ModelSpec("mlp", {"width": width, "depth": 1})
        state = dict(spec.build(info.shape, info.num_classes, seed=0).state_dict())
        return {
            f"{granularity} gradients": ({"model": spec.to_json(), "granularity": granularity}, state)
            for granularity in GRANULARITIES
        }

    @classmethod
    def blocks(cls, arguments: Mapping[str, Any], info: DatasetInfo) -> Mapping[str, int]:
        """For audits: a row's parts are the gradients of the network's tensors."""
        spec, _ = cls._read(arguments)
        network = spec.build(info.shape, info.num_classes, seed=0)
        return {name: tensor.numel() for name, tensor in network.named_parameters() if tensor.requires_grad}
