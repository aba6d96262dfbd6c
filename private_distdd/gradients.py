"""The one primitive: gradients of a batch, by class; clipped per example, or differentiable."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from opacus import GradSampleModule
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from private_distdd.errors import ModelError
from private_distdd.privacy.mechanism import LATTICE, Rows, lattice_sums

MICRO_BATCH = 64  # every batch is padded to this many examples, so that no example's bits depend on how many ride along


def loss_sum(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy summed over the batch: the one place where the loss of a gradient is written."""
    return F.cross_entropy(model(images), labels, reduction="sum")


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


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Kernels whose bits do not depend on what else runs: what A2 asks of a client's computations."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


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


def group_gradients(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Mean gradients of several equal groups at once, differentiable in the images: the server's, on synthetic data.

    Args:
        model: its trainable parameters are constants here.
        images: float [groups, m, C, H, W].
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
