"""Distances between gradients, and the step on the synthetic images: the server's side, all of it post-processing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from private_distdd.matching.per_group import PerGroup
from private_distdd.networks.device import quick

Distance: TypeAlias = Callable[[Tensor, Tensor, Sequence[torch.Size]], Tensor]
_TINY = 1e-12


def layer_cosine(synthetic: Tensor, target: Tensor, shapes: Sequence[torch.Size]) -> Tensor:
    """Sum over layers and output nodes of 1 - cosine, as in DC (Zhao, Mopuri and Bilen 2021, arXiv 2006.05929, eq. 10).

    Weights count row by row (one row an output node); biases and normalisation scales, of one dimension, are left out,
    as in DC's code.

    Args:
        synthetic: float [groups, num_parameters], a flat gradient a group.
        target: the same of the clients.
        shapes: shape of each parameter, in the order of the flat gradients.

    Returns:
        a scalar, the sum over groups; differentiable, >= 0.
    """
    sizes = [shape.numel() for shape in shapes]
    total = synthetic.new_zeros(())
    for a, b, shape in zip(
        torch.split(synthetic, sizes, dim=1), torch.split(target, sizes, dim=1), shapes, strict=True
    ):
        if len(shape) > 1:
            rows = (len(a), shape[0], -1)
            total = total + (1 - _cosine(a.reshape(rows), b.reshape(rows))).sum()
    return total


def cosine(synthetic: Tensor, target: Tensor, shapes: Sequence[torch.Size]) -> Tensor:
    """1 - cosine of a group's whole gradient: blind to scale, and the least swayed by noise in single layers.

    Args and returns: as `layer_cosine`.
    """
    return (1 - _cosine(synthetic, target)).sum()


def squared_l2(synthetic: Tensor, target: Tensor, shapes: Sequence[torch.Size]) -> Tensor:
    """The squared Euclidean distance (the paper's eq. 27).  Sees scale: the target must be a mean, as S's gradient is.

    Args and returns: as `layer_cosine`.
    """
    return (synthetic - target).square().sum()


DISTANCES: dict[str, Distance] = {"layer_cosine": layer_cosine, "cosine": cosine, "squared_l2": squared_l2}


def parameter_shapes(model: nn.Module) -> list[torch.Size]:
    """Shapes of the trainable parameters, in the order of a flat gradient."""
    return [p.shape for p in model.parameters() if p.requires_grad]


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """The cosine along the last dimension."""
    # Not torch's cosine_similarity: that clamps each norm, which kills the gradient of rows near zero.
    norms = torch.linalg.vector_norm(a, dim=-1) * torch.linalg.vector_norm(b, dim=-1)
    similarity: Tensor = (a * b).sum(-1) / (norms + _TINY)
    return similarity


def group_gradients(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Mean gradients of equal groups, differentiable (once) in the images: the server's, on synthetic data.

    Args:
        model: a network that `networks.validation.validate_model` accepts; its parameters are constants here.
        images: float [groups, m, *shape].
        labels: int64 [groups, m].

    Returns:
        float [groups, num_parameters], each the mean over its group's m examples.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    examples = quick(images.flatten(0, 1))
    with PerGroup(len(labels), parameters, examples) as mode:
        loss = F.cross_entropy(model(examples), labels.flatten(), reduction="sum") / labels.shape[1]
    own = torch.autograd.grad(loss, [*mode.copies, *parameters], create_graph=True, allow_unused=True)
    if any(gradient is not None for gradient in own[len(parameters) :]):  # of a layer without a rule
        return _one_by_one(model, images, labels, parameters)
    parts = [torch.zeros_like(p) if g is None else g for p, g in zip(mode.copies, own[: len(parameters)], strict=True)]
    return torch.cat([part.flatten(1) for part in parts], dim=1)


def _one_by_one(model: nn.Module, images: Tensor, labels: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """`group_gradients` of any network."""
    rows = []
    for own_images, own_labels in zip(images, labels, strict=True):
        loss = F.cross_entropy(model(own_images), own_labels)
        gradients = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(rows)


_AT_ONCE = 3 << 19  # values that layers hand on: fewer parts have less to call, more stay in the caches (measured)


def distance_slope(
    distance: Distance, model: nn.Module, images: Tensor, labels: Tensor, target: Tensor, activations: int
) -> tuple[Tensor, Tensor]:
    """The distance between the groups' gradients and the target, and its derivative in the images.

    On a CPU the groups are taken in parts, so that what the layers hand on stays in its caches.

    Args:
        distance: a sum over groups.
        model: see `group_gradients`.
        images: float [groups, m, *shape].
        labels: int64 [groups, m].
        target: float [groups, num_parameters].
        activations: values that the model's layers hand on for one example.

    Returns:
        the distance, a scalar, and float [groups, m, *shape]; both where the images are.
    """
    shapes, total = parameter_shapes(model), images.new_zeros(())
    slopes: list[Tensor] = []
    values = activations * labels.numel()
    parts = min(len(labels), -(-values // _AT_ONCE)) if images.device.type == "cpu" else 1
    for own_images, own_labels, own_target in zip(
        *(t.tensor_split(parts) for t in (images.detach(), labels, target)), strict=True
    ):
        own_images.requires_grad_()
        part = distance(group_gradients(model, own_images, own_labels), own_target, shapes)
        slopes += torch.autograd.grad(part, [own_images])
        total += part.detach()
    return total, torch.cat(slopes)
