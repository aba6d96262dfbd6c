"""A classifier that the clients' noisy gradients train; it labels S softly, at no further price."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ModelError
from private_distdd.matching.gradients import parameter_shapes
from private_distdd.networks.spec import ModelSpec
from private_distdd.networks.trained import TrainedNetwork
from private_distdd.server.loop import named, unnamed
from private_distdd.synthetic.dataset import SyntheticDataset

_log = logging.getLogger("private_distdd")
_TEMPERATURES = [2 ** (k / 2) for k in range(-10, 11)]  # 1/32 ... 32
_AT_ONCE = 64  # examples whose soft labels are computed together


class Teacher:
    """A network, and the momentum of its steps along aggregated gradients (DistDD, line 20).

    Args:
        spec: the architecture.
        info: what is public about the clients' data.
        seed: of the first weights.
        rate: of a step, > 0.
        momentum: in [0, 1): what a step keeps of the one before.
        device: where it is computed.
    """

    question = "class_gradients"

    def __init__(
        self, spec: ModelSpec, info: DatasetInfo, seed: int, *, rate: float, momentum: float, device: str
    ) -> None:
        self.spec, self.info, self._rate, self._momentum = spec, info, rate, momentum
        self.network = spec.build(info.shape, info.num_classes, seed).to(device)
        self._velocity = [torch.zeros_like(parameter) for parameter in self._parameters]
        self.dimension = sum(shape.numel() for shape in parameter_shapes(self.network))

    @property
    def _parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    @property
    def arguments(self) -> dict[str, object]:
        """Of the query: one gradient over all classes, which has the least noise."""
        return {"model": self.spec.to_json(), "granularity": "joint"}

    @property
    def state(self) -> dict[str, Tensor]:
        """The weights, on the CPU."""
        return {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()}

    def step(self, gradient: Tensor) -> None:
        """One step along the mean gradient, float [dimension]."""
        parts = torch.split(gradient, [parameter.numel() for parameter in self._parameters])
        descend(self._parameters, self._velocity, parts, rate=self._rate, momentum=self._momentum)

    @property
    def moved(self) -> bool:
        """Has it been taught anything yet?"""
        return any(bool(velocity.any()) for velocity in self._velocity)

    def keep(self) -> dict[str, Tensor]:
        """Weights and momentum, for checkpoints."""
        velocity = {str(k): value for k, value in enumerate(self._velocity)}
        return {**named("teacher", self.network.state_dict()), **named("velocity", velocity)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `keep`."""
        self.network.load_state_dict(unnamed("teacher", tensors))
        for k, value in unnamed("velocity", tensors).items():
            self._velocity[int(k)].copy_(value)


def descend(
    parameters: Sequence[Tensor],
    velocity: Sequence[Tensor],
    gradient: Sequence[Tensor],
    *,
    rate: float,
    momentum: float,
) -> None:
    """One step of SGD with momentum, in place.

    Not torch's own optimiser, which has no velocity before the first step: a checkpoint always has one.

    Args:
        parameters: that move.
        velocity: of each, zero before the first step.
        gradient: of each, of any shape with as many values.
        rate: of the step.
        momentum: in [0, 1).
    """
    with torch.no_grad():
        for parameter, moving, part in zip(parameters, velocity, gradient, strict=True):
            moving.mul_(momentum).add_(part.reshape(parameter.shape).to(moving))
            parameter.sub_(moving, alpha=rate)


def trained_network(spec: ModelSpec, network: nn.Module, info: DatasetInfo) -> TrainedNetwork | None:
    """What is released; None where noise, or a rate that is too large, left no finite weights."""
    try:
        return TrainedNetwork(spec, network.state_dict(), info)
    except ModelError as error:
        _log.warning("no teacher is released: %s", error)
        return None


def softened(dataset: SyntheticDataset, network: nn.Module) -> SyntheticDataset:
    """S with the network's opinion of every example as its soft labels; as it is where that is not finite.

    The opinion is softmax(logits / temperature), at the temperature at which S's own labels are likeliest: a network
    of few steps is never sure, and its labels would tell little (temperature scaling, Guo et al. 2017).
    """
    device = next(network.parameters()).device
    network.eval()
    examples = dataset.expanded()
    with torch.inference_mode():
        logits = torch.cat([network(part.to(device)).cpu() for part in torch.split(examples.images, _AT_ONCE)])
    if not bool(torch.isfinite(logits).all()):
        _log.warning("the teacher diverged: S has no soft labels")
        return dataset
    temperature = min(_TEMPERATURES, key=lambda one: float(F.cross_entropy(logits / one, examples.labels)))
    soft = (logits / temperature).softmax(dim=1)
    return SyntheticDataset(dataset.images, dataset.labels, dataset.info, dataset.partition, soft)
