"""Ways of networks in training, and the steps on S that make S's training go the same ways."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from private_distdd.data.info import DatasetInfo
from private_distdd.matching.means import total_variation
from private_distdd.synthetic.latents import Latents
from private_distdd.synthetic.mosaic import expand

_TINY = 1e-12
Distance: TypeAlias = Callable[[Tensor, Tensor], Tensor]


class Way(NamedTuple):
    """How a client's examples, or those of all clients, move a network.

    Args:
        start: the first weights, flat, float32 [num_parameters].
        moved: the last ones minus the first.
        part: which of S's examples shall move it so, int64; None for all of them.
    """

    start: Tensor
    moved: Tensor
    part: Tensor | None = None


def normalised_l2(student: Tensor, target: Tensor) -> Tensor:
    """The squared distance of the two ends, over that which the target's way covers.

    Args:
        student: how S moves the network, flat.
        target: how the clients' examples move it.

    Returns:
        a scalar, differentiable, >= 0.

    Source: Cazenavette et al. 2022 (MTT), eq. 2.
    """
    distance: Tensor = (student - target).square().sum() / (target.square().sum() + _TINY)
    return distance


def cosine(student: Tensor, target: Tensor) -> Tensor:
    """1 - cosine of the two movements: under noise only the direction of a way is worth matching.

    Args and returns: as `normalised_l2`.
    """
    norms = torch.linalg.vector_norm(student) * torch.linalg.vector_norm(target)
    similarity: Tensor = (student * target).sum() / (norms + _TINY)
    return 1 - similarity


DISTANCES: dict[str, Distance] = {"cosine": cosine, "l2": normalised_l2}


def moved_by(
    network: nn.Module,
    start: Tensor,
    images: Tensor,
    labels: Tensor,
    rate: Tensor,
    steps: int,
    *,
    first_order: bool = False,
    checkpointed: bool = False,
) -> Tensor:
    """How steps of gradient descent on S move a network; differentiable in the images and the rate.

    Args:
        network: the architecture; its own weights are not looked at.
        start: the first weights, flat, float32 [num_parameters].
        images: float32 [n, *shape], each step takes all of them.
        labels: int64 [n].
        rate: a scalar > 0.
        steps: >= 1.
        first_order: a step's gradient counts as a constant of the weights it is taken at (as the published code of
            FedDGM does), in place of derivatives through all steps (as MTT).
        checkpointed: forget what a step computed, and compute it again for its derivatives: less memory, more time.

    Returns:
        the last weights minus the first, flat, [num_parameters].
    """
    named = {name: p for name, p in network.named_parameters() if p.requires_grad}
    sizes = [p.numel() for p in named.values()]
    if images.dim() == 4 and images.device.type == "cpu":
        images = images.clone(memory_format=torch.channels_last)  # pooling is ten times as fast then

    def step(weights: Tensor, images: Tensor, rate: Tensor) -> Tensor:
        at = weights.detach().requires_grad_() if first_order or not weights.requires_grad else weights
        parts = zip(named.items(), torch.split(at, sizes), strict=True)
        parameters = {name: part.view_as(p) for (name, p), part in parts}
        loss = F.cross_entropy(functional_call(network, parameters, (images,)), labels)
        (slope,) = torch.autograd.grad(loss, [at], create_graph=True)
        return weights - rate * slope

    weights, forgetful = start, partial(checkpoint, step, use_reentrant=False)
    for _ in range(steps):
        weights = (forgetful if checkpointed else step)(weights, images, rate)
    return weights - start


def match_ways(
    latents: Latents,
    labels: Tensor,
    network: nn.Module,
    ways: Callable[[np.random.Generator], Way],
    info: DatasetInfo,
    *,
    distance: Distance,
    student_steps: int,
    student_rate: float,
    steps: int,
    rate: float,
    generator_rate: float,
    smoothness: float,
    partition: int,
    first_order: bool,
    checkpointed: bool,
    rng: np.random.Generator,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Change latents, and a generator's learned weights, in place, so that S moves networks as the ways say.

    Each step is one of Adam at one way; its rates fall along half a cosine to 0.  The rate of the student, which is the
    network that S trains, is learned beside the latents.

    Args:
        latents: of S.
        labels: int64 [n], on the same device.
        network: the architecture of the ways, there too.
        ways: draws one.
        info: public shape.
        distance: one of `DISTANCES`.
        student_steps: N, steps of the student, >= 1.
        student_rate: its first rate, > 0.
        steps: of Adam, at least 1.
        rate: Adam's for the latents, > 0.
        generator_rate: Adam's for the generator's weights, > 0.
        smoothness: weight of S's total variation, >= 0; of no effect on tables.
        partition: see `expand`.
        first_order, checkpointed: see `moved_by`.
        rng: of the ways.
        report: called after each step with its number, from 1, and its distance.

    Source: Cazenavette et al. 2022 (MTT), Algorithm 1; Jia et al. 2023 (FedDGM), eq. 5 and 6.
    """
    log_rate = torch.tensor(math.log(student_rate), device=labels.device, requires_grad=True)
    student = {"params": [log_rate], "lr": _STUDENT_RATE, "most": _STUDENT_RATE}
    optimizer = torch.optim.Adam([*latents.groups(rate, generator_rate), student])
    for step in range(steps):
        way = ways(rng)
        examples = latents.examples()
        seen, targets = (examples, labels) if way.part is None else (examples[way.part], labels[way.part])
        moved = moved_by(
            network,
            way.start,
            expand(seen, partition),
            targets.repeat_interleave(partition**2),
            log_rate.exp(),
            student_steps,
            first_order=first_order,
            checkpointed=checkpointed,
        )
        found = distance(moved, way.moved)
        loss = found
        if smoothness and info.form.spatial:
            loss = loss + smoothness * total_variation(examples)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        for group in optimizer.param_groups:
            group["lr"] = group["most"] * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.step()
        report(step + 1, float(found.detach()))


_STUDENT_RATE = 0.02  # Adam's, for the logarithm of the student's rate
