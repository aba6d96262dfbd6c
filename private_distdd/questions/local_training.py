"""The question "local_training": the way a network goes when it is trained on a client's examples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError
from private_distdd.limits import STEPS, Cost
from private_distdd.networks.loss import loss_sum
from private_distdd.networks.micro_batch import MICRO_BATCH
from private_distdd.networks.spec import ModelSpec
from private_distdd.networks.state import load_state
from private_distdd.questions.arguments import require_fields
from private_distdd.questions.audited import Asked, SpecificAttack
from private_distdd.questions.class_gradients import ClassGradients
from private_distdd.questions.question import Measuring
from private_distdd.questions.register import register_question
from private_distdd.validate import require_count, require_number

FASTEST = 1e6
"""The largest rate: with gradients as they may be, weights stay finite."""


@register_question("local_training")
class LocalTraining:
    """The question "local_training": the sum of the gradients along which a client's own steps move a network.

    It starts at given weights theta_0 and takes steps of SGD, theta <- theta - rate (g + proximal (theta - theta_0));
    the answer is the sum of these brackets: (theta_0 - theta_end) / rate, one group.  The proximal term is FedProx's.

    Under a plan each step is a measurement of its own, on fresh coins: g is the noisy sum of the clipped gradients over
    b, and the plan must have `events_per_query` = steps.  All that a step sees of the data is that noisy sum, so the
    answer is post-processing of all of them (adaptive composition, docs/theorem.md, section 6).  Without privacy g is
    the mean gradient of the next `batch_size` examples of a seeded order, and the answer is weighted by how many
    examples the client holds, so that "mean" is FedAvg's.

    Args:
        arguments: {"model": ModelSpec as JSON, "steps": 1 ... 4,096, "rate": in (0, 10^6], "proximal": >= 0 and at most
            1 / rate, "batch_size": >= 1, or None for all examples; under a plan the coins decide, and it is not looked
            at, "seed": public, of the order}.
        tensors: the network's state, by name.
        info: public class list and image shape.
        device: where it is computed.
        whole: answer with the brackets themselves, side by side, in place of their sum: [1, steps * num_parameters].

    Raises:
        QueryRefusedError, ConfigurationError, ModelError: the arguments are not these, or the network breaks an
            assumption of the theorem.

    Source: McMahan et al. 2017, Algorithm 1 (FedAvg); Li et al. 2020, eq. 2 (FedProx); Abadi et al. 2016 (DP-SGD).
    """

    attacks: ClassVar[frozenset[SpecificAttack]] = frozenset()

    def __init__(
        self,
        arguments: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        info: DatasetInfo,
        device: str,
        *,
        whole: bool = False,
    ) -> None:
        self.events = self.steps_of(arguments)
        self._arguments, self._tensors, self._info, self._device = arguments, tensors, info, device
        self._whole = whole
        self._first = self._at(tensors)
        self.num_groups, self.dimension = 1, self._first.dimension

    @staticmethod
    def steps_of(arguments: Mapping[str, Any]) -> int:
        """How many steps.

        Raises:
            QueryRefusedError, ConfigurationError: the arguments are not as they must be.
        """
        require_fields(arguments, {"model", "steps", "rate", "proximal", "batch_size", "seed"})
        rate, at_zero = arguments["rate"], math.nextafter(0, -1)
        above = math.nextafter(FASTEST, math.inf)
        require_number("rate", rate, 0, above, "0 < rate <= 10^6", "0.1 is usual.")
        require_number("proximal", arguments["proximal"], at_zero, math.inf, "a finite number >= 0", "0 leaves it out.")
        if arguments["proximal"] * rate > 1:
            raise ConfigurationError(
                f"proximal = {arguments['proximal']} at rate {rate}", "at most 1 / rate", "Beyond, steps overshoot."
            )
        if arguments["batch_size"] is not None:
            require_count("batch_size", arguments["batch_size"], "32 is usual.")
        require_count("seed", arguments["seed"], "Any whole number from 0 on.", at_least=0, at_most=2**63 - 1)
        return require_count("steps", arguments["steps"], "10 is usual.", at_most=STEPS)

    @classmethod
    def cost(cls, arguments: Mapping[str, Any], info: DatasetInfo) -> Cost:
        """What an answer takes at most: each step may be a pass over all examples."""
        steps = cls.steps_of(arguments)
        alone = ClassGradients.cost(_joint(arguments["model"]), info)
        parameters = ModelSpec.from_json(arguments["model"]).size(info.shape, info.num_classes).parameters
        return Cost(alone.memory + 16.0 * parameters, steps * alone.work)

    def _at(self, weights: Mapping[str, Tensor]) -> ClassGradients:
        """The gradients at these weights, of all classes together."""
        return ClassGradients(_joint(self._arguments["model"]), weights, self._info, self._device)

    def public(self) -> ClassGradients:
        """The first step, at public weights."""
        return self._first.public()

    def groups(self, labels: Tensor) -> Tensor:
        """One group, int64 [n]."""
        return self._first.groups(labels)

    def rows(self, images: Tensor, labels: Tensor) -> Tensor:
        """Per-example gradients at the first step's weights, float32 [n, dimension]."""
        return self._first.rows(images, labels)

    def answer(self) -> Measuring:
        """One measurement a step."""
        way = self._way()
        at = self._first
        for left in reversed(range(self.events)):
            way.step((yield at.measured)[0])
            if left:
                at = self._at(way.state)
        return way.told[None]

    def plain(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The answer times the number of examples, float32 [1, its length], and that number, int64 [1]."""
        way, count = self._way(), len(labels)
        if not count:
            return torch.zeros_like(way.total).repeat(1, self.events if self._whole else 1), torch.tensor([0])
        network = way.network.to(self._device)
        parameters = [p for p in network.parameters() if p.requires_grad]
        batches = _batches(self._arguments, count)
        for _ in range(self.events):
            chosen = torch.from_numpy(next(batches)).to(images.device)
            sums = [torch.zeros_like(p) for p in parameters]
            for part in torch.split(chosen, MICRO_BATCH):
                found = torch.autograd.grad(loss_sum(network, images[part], labels[part]), parameters)
                sums = [own + more for own, more in zip(sums, found, strict=True)]
            way.step(torch.cat([own.reshape(-1) for own in sums]) / len(chosen))
        return way.told.cpu()[None] * count, torch.tensor([count])

    def _way(self) -> _Way:
        return _Way(self._arguments, self._tensors, self._info, self._whole)

    @staticmethod
    def examples(info: DatasetInfo, width: int) -> Mapping[str, Asked]:
        """For audits: one step of a small network from the weights of seed 0."""
        spec = ModelSpec("mlp", {"width": width, "depth": 1})
        state = dict(spec.build(info.shape, info.num_classes, seed=0).state_dict())
        own = {"steps": 1, "rate": 0.1, "proximal": 0.0, "batch_size": None, "seed": 0}
        return {"a step of local training": ({"model": spec.to_json(), **own}, state)}

    @staticmethod
    def blocks(arguments: Mapping[str, Any], info: DatasetInfo) -> Mapping[str, int]:
        """For audits: a row's parts are the gradients of the network's tensors."""
        return ClassGradients.blocks(_joint(arguments["model"]), info)


class _Way:
    """A network under way from its first weights, and the sum of the gradients that moved it."""

    def __init__(
        self, arguments: Mapping[str, Any], tensors: Mapping[str, Tensor], info: DatasetInfo, whole: bool
    ) -> None:
        self._rate, self._proximal = arguments["rate"], arguments["proximal"]
        self.network = ModelSpec.from_json(arguments["model"]).build(info.shape, info.num_classes)
        load_state(self.network, tensors)
        self.total = torch.zeros(sum(p.numel() for p in self.network.parameters() if p.requires_grad))
        self._steps: list[Tensor] | None = [] if whole else None

    @property
    def told(self) -> Tensor:
        """What the answer says of it: the sum of the steps over the rate, or each of them."""
        return self.total if self._steps is None else torch.cat(self._steps)

    def step(self, gradient: Tensor) -> None:
        """One step along a mean gradient, float32 [dimension]."""
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        # theta - theta_0 is -rate times the sum so far.
        moved = gradient - self._proximal * self._rate * self.total.to(gradient)
        self.total = self.total.to(gradient) + moved
        if self._steps is not None:
            self._steps.append(moved)
        with torch.no_grad():
            parts = torch.split(moved, [p.numel() for p in parameters])
            for parameter, part in zip(parameters, parts, strict=True):
                parameter.sub_(part.view_as(parameter), alpha=self._rate)

    @property
    def state(self) -> dict[str, Tensor]:
        """The weights as they are."""
        return dict(self.network.state_dict())


def _joint(model: Mapping[str, Any]) -> dict[str, Any]:
    """What `ClassGradients` is asked for one gradient over all classes."""
    return {"model": model, "granularity": "joint"}


def _batches(arguments: Mapping[str, Any], count: int) -> Iterator[np.ndarray[Any, np.dtype[np.int64]]]:
    """Indices of one batch after another: a new order whenever all examples have been seen."""
    rng, size = np.random.default_rng(arguments["seed"]), arguments["batch_size"] or count
    while True:
        order = rng.permutation(count)
        yield from (order[start : start + size] for start in range(0, count, size))
