"""The question "local_trainings": the ways of several networks from public starts, all in one message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ModelError
from private_distdd.limits import Cost
from private_distdd.networks.spec import ModelSpec, require_seeds
from private_distdd.questions.arguments import require_fields, states_of
from private_distdd.questions.audited import Asked, SpecificAttack
from private_distdd.questions.local_training import LocalTraining
from private_distdd.questions.question import Measuring
from private_distdd.questions.register import register_question
from private_distdd.validate import require_flag

_WEIGHT = 4  # bytes


@register_question("local_trainings")
class LocalTrainings:
    """The question "local_trainings": `LocalTraining` of K networks one after another, the answers side by side.

    The networks start where public seeds draw them, so that no weights cross the wire, or at weights that are sent.
    A message has one group of K d values, for networks of d parameters; or of K steps d, where the whole way of each is
    asked for: the gradients of its steps in their order.

    Under a plan every step of every network is a measurement of its own, on fresh coins, and the plan must have
    `events_per_query` = K * steps.  The whole way costs no more than its end, which is computed from it.

    Args:
        arguments: {"seeds": 1 ... 4,096 different whole numbers in [0, 2^63), "whole": true or false, "model", "steps",
            "rate", "batch_size" and "seed" as for `LocalTraining`}.
        tensors: none, where the seeds make the networks; else all networks' states, as `weights_of` names them.
        info: public class list and image shape.
        device: where it is computed.

    Raises:
        QueryRefusedError, ConfigurationError, ModelError: the arguments are not these, or the network breaks an
            assumption of the theorem.

    Source: Jia et al. 2023 (FedDGM), Algorithm 1; several starts and the noise are ours.
    """

    attacks: ClassVar[frozenset[SpecificAttack]] = frozenset()

    def __init__(
        self, arguments: Mapping[str, Any], tensors: Mapping[str, Tensor], info: DatasetInfo, device: str
    ) -> None:
        own, seeds, whole = _read(arguments)
        spec = ModelSpec.from_json(own["model"])
        states = states_of(tensors, len(seeds)) or [
            dict(spec.build(info.shape, info.num_classes, seed).state_dict()) for seed in seeds
        ]
        self._trainings = [LocalTraining(own, state, info, device, whole=whole) for state in states]
        steps = self._trainings[0].events
        self.events, self._repeated = len(seeds) * steps, steps if whole else 1
        self.num_groups = 1
        self.dimension = len(seeds) * self._repeated * self._trainings[0].dimension

    @classmethod
    def cost(cls, arguments: Mapping[str, Any], info: DatasetInfo) -> Cost:
        """What an answer takes at most: all networks are held, and one after another is trained."""
        own, seeds, whole = _read(arguments)
        alone = LocalTraining.cost(own, info)
        parameters = ModelSpec.from_json(own["model"]).size(info.shape, info.num_classes).parameters
        told = 2.0 * (own["steps"] if whole else 1) * parameters  # the ways, and the message
        return Cost(alone.memory + len(seeds) * _WEIGHT * (parameters + told), len(seeds) * alone.work)

    def public(self) -> Any:
        """The first step of the first network, at public weights: the others have the same sizes."""
        return self._trainings[0].public()

    def groups(self, labels: Tensor) -> Tensor:
        """One group, int64 [n]."""
        return self._trainings[0].groups(labels)

    def rows(self, images: Tensor, labels: Tensor) -> Tensor:
        """Per-example gradients where the networks start, in the places of all their steps: float32 [n, dimension]."""
        starts = [training.rows(images, labels) for training in self._trainings]
        return torch.cat([start for start in starts for _ in range(self._repeated)], dim=1)

    def answer(self) -> Measuring:
        """One measurement a step, of one network after another."""
        found = []
        for training in self._trainings:
            found.append((yield from training.answer()))
        return torch.cat(found, dim=1)

    def plain(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The answer times the number of examples, float32 [1, dimension], and that number, int64 [1]."""
        found = [training.plain(images, labels) for training in self._trainings]
        return torch.cat([values for values, _ in found], dim=1), found[0][1]

    @staticmethod
    def examples(info: DatasetInfo, width: int) -> Mapping[str, Asked]:
        """For audits: one step of a small network from the weights of seed 0."""
        spec = ModelSpec("mlp", {"width": width, "depth": 1})
        own = {"steps": 1, "rate": 0.1, "batch_size": None, "seed": 0, "seeds": [0], "whole": True}
        return {"a step of a network at a seed": ({"model": spec.to_json(), **own}, {})}

    @staticmethod
    def blocks(arguments: Mapping[str, Any], info: DatasetInfo) -> Mapping[str, int]:
        """For audits: a row's parts are the gradients of each network's tensors, at each step that is told."""
        own, seeds, whole = _read(arguments)
        parts, told = LocalTraining.blocks(own, info), own["steps"] if whole else 1
        places = [f"network {k}, step {t}" for k in range(len(seeds)) for t in range(told)]
        return {f"{place}, {name}": length for place in places for name, length in parts.items()}


def _read(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[int, ...], bool]:
    """What each network is asked, the seeds, and whether the whole ways are asked for."""
    require_fields(arguments, {"seeds", "whole", "model", "steps", "rate", "batch_size", "seed"})
    seeds = require_seeds(arguments["seeds"])
    if len(set(seeds)) < len(seeds):
        raise ModelError(f"{len(seeds)} seeds", "seeds that differ", "A network twice tells little new.")
    own = {name: value for name, value in arguments.items() if name not in ("seeds", "whole")} | {"proximal": 0.0}
    LocalTraining.steps_of(own)  # refused here, before anything is made of them
    return own, seeds, require_flag("whole", arguments["whole"])
