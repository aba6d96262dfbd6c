"""Distances between gradients, and the step on the synthetic images: the server's side, all of it post-processing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

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
    """Mean gradients of several equal groups at once, differentiable in the images: the server's, on synthetic data.

    Args:
        model: its trainable parameters are constants here.
        images: float [groups, m, *shape].
        labels: int64 [groups, m].

    Returns:
        float [groups, num_parameters], each the mean over its group's m examples.
    """
    state = {name: tensor.detach() for name, tensor in model.state_dict(keep_vars=True).items()}
    trainable = {name: state.pop(name) for name, p in model.named_parameters() if p.requires_grad}

    def loss(parameters: dict[str, Tensor], own_images: Tensor, own_labels: Tensor) -> Tensor:
        logits = functional_call(model, {**state, **parameters}, (own_images,))
        return F.cross_entropy(logits, own_labels)

    gradients = vmap(grad(loss), in_dims=(None, 0, 0))(trainable, images, labels)
    return torch.cat([g.flatten(1) for g in gradients.values()], dim=1)
