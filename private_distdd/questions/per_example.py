"""Sums of a network's gradients: clipped example by example, or plain."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from private_distdd.networks.loss import loss_sum
from private_distdd.networks.micro_batch import micro_batches
from private_distdd.networks.per_example import PerExampleGradients
from private_distdd.privacy.mechanism import LATTICE, lattice_sums


def clipped_class_sums(
    model: nn.Module, images: Tensor, labels: Tensor, num_classes: int, max_grad_norm: float
) -> Tensor:
    """Sum over each class of the per-example gradients, each clipped to L2 norm `max_grad_norm`: before any noise.

    For tests and audits: the private mechanism shares this code but keeps the int64 lattice sums to itself.

    Args:
        model: a network that `networks.validation.validate_model` accepts.
        images: float32 [n, C, H, W].
        labels: int64 [n], in [0, num_classes).
        max_grad_norm: C > 0.

    Returns:
        float32 [num_classes, num_parameters]; a class without examples is zero.
    """
    with _unhooked_after(model) as gradients:
        batches = (
            (gradients.rows(part, targets), targets[:count]) for part, targets, count in micro_batches(images, labels)
        )
        sums = lattice_sums(batches, num_classes, gradients.dimension, max_grad_norm)
    return (sums.to(torch.float64) * (max_grad_norm / LATTICE)).to(torch.float32).to(images.device)


@contextlib.contextmanager
def _unhooked_after(model: nn.Module) -> Iterator[PerExampleGradients]:
    gradients = PerExampleGradients(model)
    try:
        yield gradients
    finally:
        gradients.remove_hooks()


def sum_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The plain (unclipped) summed gradient of one batch, flat, float [num_parameters]: for runs without privacy."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss_sum(model, images, labels), parameters)])
