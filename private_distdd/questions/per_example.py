"""Per-example gradients of a network, by Opacus hooks, in micro-batches of one size."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from opacus import GradSampleModule
from torch import Tensor, nn

from private_distdd.errors import ModelError
from private_distdd.networks.loss import loss_sum
from private_distdd.networks.micro_batch import MICRO_BATCH, deterministic
from private_distdd.privacy.mechanism import LATTICE, Rows, lattice_sums


class PerExampleGradients:
    """Per-example gradients of a network, by Opacus hooks, in padded micro-batches.

    Args:
        model: a network that `models.validate_model` accepts; the hooks are put on it, so it serves nothing else.
    """

    def __init__(self, model: nn.Module) -> None:
        self._hooked = GradSampleModule(model, loss_reduction="sum", strict=True)
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        if not self._parameters:
            raise ModelError("a network without trainable parameters", "at least one", "Unfreeze some parameters.")
        self.dimension = sum(p.numel() for p in self._parameters)

    def rows(self, images: Tensor, labels: Tensor) -> Iterator[Rows]:
        """Gradients of the loss, one example a row: float32 [64, dimension], with the labels int64 [m <= 64].

        Rows beyond m are padding.  Without examples one micro-batch of padding is run all the same: what it takes must
        not tell an empty batch from others.

        Args:
            images: float32 [>= n, C, H, W], n >= 0; those beyond n are padding.
            labels: int64 [n].
        """
        for start in range(0, max(1, len(labels)), MICRO_BATCH):
            part, targets = images[start : start + MICRO_BATCH], labels[start : start + MICRO_BATCH]
            yield self._padded(part, targets), targets

    def _padded(self, images: Tensor, labels: Tensor) -> Tensor:
        batch = images.new_zeros((MICRO_BATCH, *images.shape[1:]))
        batch[: len(images)] = images
        targets = labels.new_zeros(MICRO_BATCH)
        targets[: len(labels)] = labels
        # Full backward hooks want an input that requires a gradient.
        batch.requires_grad_(True)
        with deterministic(), torch.enable_grad():
            torch.autograd.backward(loss_sum(self._hooked, batch, targets))
        rows = torch.cat([vars(p)["grad_sample"].reshape(MICRO_BATCH, -1) for p in self._parameters], dim=1)
        self._hooked.zero_grad(set_to_none=True)
        return rows.detach()


def clipped_class_sums(
    model: nn.Module, images: Tensor, labels: Tensor, num_classes: int, max_grad_norm: float
) -> Tensor:
    """Sum over each class of the per-example gradients, each clipped to L2 norm `max_grad_norm`: before any noise.

    For tests and audits: the private mechanism shares this code but keeps the int64 lattice sums to itself.

    Args:
        model: a network that `models.validate_model` accepts.
        images: float32 [n, C, H, W].
        labels: int64 [n], in [0, num_classes).
        max_grad_norm: C > 0.

    Returns:
        float32 [num_classes, num_parameters]; a class without examples is zero.
    """
    with _unhooked_after(model) as gradients:
        sums = lattice_sums(gradients.rows(images, labels), num_classes, gradients.dimension, max_grad_norm)
    return (sums.to(torch.float64) * (max_grad_norm / LATTICE)).to(torch.float32).to(images.device)


@contextlib.contextmanager
def _unhooked_after(model: nn.Module) -> Iterator[PerExampleGradients]:
    gradients = PerExampleGradients(model)
    try:
        yield gradients
    finally:
        gradients._hooked.remove_hooks()


def sum_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The plain (unclipped) summed gradient of one batch, flat, float [num_parameters]: for runs without privacy."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss_sum(model, images, labels), parameters)])
