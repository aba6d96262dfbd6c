"""The check that every network must pass: an example's gradient depends on the weights and that example alone (A2)."""

from __future__ import annotations

from torch import nn

from private_distdd.data.form import Shape
from private_distdd.errors import ModelError
from private_distdd.networks.behaviour import check_behaviour
from private_distdd.networks.structure import check_structure
from private_distdd.opacus_parts import GradSampleModule


def validate_model(model: nn.Module, shape: Shape) -> None:
    """Refuse a network whose per-example gradients would not be what the privacy theorem assumes (A2).

    First the structure is read, then a copy of the network runs in float64 on four fixed dummy examples (never on
    data): forward passes must be finite, repeatable, leave every buffer and every random generator alone, and give each
    example the logits it gets by itself; and Opacus' per-example gradients must equal those of batches of one.  The
    model itself, and the default random state, are left as they were.

    For foreign code this is a test, not a proof: a forward pass that couples examples only on rare values, or only in
    large batches, is not found.  The check holds for training mode, in which gradients are taken.

    Args:
        model: the plain network (not wrapped in GradSampleModule).
        shape: of one example, (C, H, W) or (features,).

    Raises:
        ModelError: names the layer, says what breaks the theorem, and what to use instead.
    """
    if isinstance(model, GradSampleModule) or hasattr(model, "autograd_grad_sample_hooks"):
        raise ModelError("a network with Opacus hooks", "a plain nn.Module", "Pass it before it is wrapped.")
    check_structure(model)
    check_behaviour(model, shape)
