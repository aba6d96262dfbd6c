"""The question "class_gradients_at_seeds": gradients of random networks under public seeds, summed by class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ModelError
from private_distdd.limits import Cost
from private_distdd.networks.spec import ModelSpec, require_seeds
from private_distdd.questions.arguments import message_memory, refuse_tensors, require_fields
from private_distdd.questions.audited import Asked, SpecificAttack
from private_distdd.questions.class_gradients import GRANULARITIES, ClassGradients
from private_distdd.questions.question import Measurable, Measuring, OnOutputs
from private_distdd.questions.register import register_question

NETWORK_EVENTS = ("one", "each")
_WEIGHT = 4  # bytes


@register_question("class_gradients_at_seeds")
class GradientsAtSeeds:
    """The question "class_gradients_at_seeds": `ClassGradients` of K random networks under public seeds, side by side.

    No weights cross the wire.  There are two ways to measure K networks, and two prices (docs/theorem.md, section 5):

    - "one" event: an example's row holds its K gradients, each over sqrt(K), and is clipped to C as a whole.  Whoever
      multiplies by sqrt(K) has noise sqrt(K) sigma C on each gradient; as much noise as a lone network has would be one
      event at sigma / sqrt(K).
    - K events, one of "each" network: every network is measured on coins of its own, with noise sigma C; the run's plan
      must have `events_per_query` K.

    Args:
        arguments: {"model": ModelSpec as JSON, "granularity": as for `ClassGradients`, "seeds": 1 ... 4,096 different
            whole numbers in [0, 2^63), "events": "one" or "each"}.
        tensors: none.
        info: public class list and shape.
        device: where the gradients are computed.

    Raises:
        ModelError, QueryRefusedError, ConfigurationError: the arguments are not these, or the network breaks an
            assumption of the theorem.
    """

    attacks: ClassVar[frozenset[SpecificAttack]] = frozenset()

    def __init__(
        self, arguments: Mapping[str, Any], tensors: Mapping[str, Tensor], info: DatasetInfo, device: str
    ) -> None:
        refuse_tensors(tensors)
        seeds, each = self._read(arguments)
        own = _own(arguments)
        spec = ModelSpec.from_json(own["model"])
        self._networks = [
            ClassGradients(own, spec.build(info.shape, info.num_classes, seed).state_dict(), info, device)
            for seed in seeds
        ]
        self.events = len(seeds) if each else 1
        self._scale = 1.0 if each else 1 / math.sqrt(len(seeds))
        self.num_groups = self._networks[0].num_groups
        self.dimension = len(seeds) * self._networks[0].dimension

    @staticmethod
    def _read(arguments: Mapping[str, Any]) -> tuple[tuple[int, ...], bool]:
        """The seeds, and whether each network is an event of its own."""
        require_fields(arguments, {"model", "granularity", "seeds", "events"})
        seeds = require_seeds(arguments["seeds"])
        if len(set(seeds)) < len(seeds) or arguments["events"] not in NETWORK_EVENTS:
            raise ModelError(
                f"{len(seeds)} seeds, and events = {arguments['events']!r}",
                f"seeds that differ, and one of {NETWORK_EVENTS}",
                "A network twice tells nothing new.",
            )
        return seeds, arguments["events"] == "each"

    @classmethod
    def cost(cls, arguments: Mapping[str, Any], info: DatasetInfo) -> Cost:
        """What an answer takes at most: all networks are held, and one after another computes."""
        (seeds, each), own = cls._read(arguments), _own(arguments)
        count, alone = len(seeds), ClassGradients.cost(own, info)
        parameters = ModelSpec.from_json(own["model"]).size(info.shape, info.num_classes).parameters
        groups = info.num_classes if own["granularity"] == "class" else 1
        memory = alone.memory + count * _WEIGHT * parameters
        if each:
            memory += 2 * _WEIGHT * groups * count * parameters  # measurements, and the message
        else:
            memory += message_memory(groups, count * parameters)
        return Cost(memory, count * alone.work)

    @property
    def together(self) -> int:
        """As of each of its networks."""
        return self._networks[0].together

    def public(self) -> ClassGradients:
        """One of its networks, by a public seed: the others have the same sizes."""
        return self._networks[0].public()

    def groups(self, labels: Tensor) -> Tensor:
        """The group each example is summed into, int64 [n]."""
        return self._networks[0].groups(labels)

    def rows(self, images: Tensor, labels: Tensor) -> Tensor:
        """Per-example gradients of one network after another, over sqrt(K) for one event: float32 [n, dimension]."""
        return self._side_by_side(self._networks, images, labels)

    def _side_by_side(self, parts: Sequence[Measurable], examples: Tensor, labels: Tensor) -> Tensor:
        return torch.cat([part.rows(examples, labels) for part in parts], dim=1).mul_(self._scale)

    @cached_property
    def _measured(self) -> Measurable:
        """All networks in one event, on features that they share where they begin with the same fixed layers."""
        parts = [network.measured for network in self._networks]
        first = parts[0]
        if not isinstance(first, OnOutputs):
            return self
        return OnOutputs(self, first.fixed, partial(self._side_by_side, parts))

    def answer(self) -> Measuring:
        """One measurement of all networks, or one of each."""
        if self.events == 1:
            return (yield self._measured)
        found = []
        for network in self._networks:
            found.append((yield network.measured))
        return torch.cat(found, dim=1)

    def plain(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Plain sums by group, in the scale of `rows`, and their counts."""
        found = [network.plain(images, labels) for network in self._networks]
        return torch.cat([values for values, _ in found], dim=1).mul_(self._scale), found[0][1]

    @staticmethod
    def examples(info: DatasetInfo, width: int) -> Mapping[str, Asked]:
        """For audits: gradients of two small networks in one event, by class and of all together."""
        model = ModelSpec("mlp", {"width": width, "depth": 1}).to_json()
        return {
            f"{granularity} gradients at seeds": (
                {"model": model, "granularity": granularity, "seeds": [0, 1], "events": "one"},
                {},
            )
            for granularity in GRANULARITIES
        }

    @staticmethod
    def blocks(arguments: Mapping[str, Any], info: DatasetInfo) -> Mapping[str, int]:
        """For audits: a row's parts are the gradients of each network's tensors."""
        own = ClassGradients.blocks(_own(arguments), info)
        count = len(arguments["seeds"])
        return {f"network {k}, {name}": length for k in range(count) for name, length in own.items()}


def _own(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What each network is asked."""
    return {name: arguments[name] for name in ("model", "granularity")}
