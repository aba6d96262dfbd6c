"""What a network's layers must be, read off without running it (A2)."""

from __future__ import annotations

from torch import nn

from private_distdd.errors import ModelError
from private_distdd.opacus_parts import GradSampleModule

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def check_structure(model: nn.Module) -> None:
    """Refuse layers that couple examples, keep state, or have no right per-example gradients.

    Raises:
        ModelError: names the layer, says what breaks the theorem, and what to use instead.
    """
    owners: dict[int, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        where = f"layer {path or '(the network itself)'!r} ({type(module).__name__})"
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ModelError(f"{where} mixes the examples of a batch", "GroupNorm or LayerNorm", "Use nn.GroupNorm.")
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats:
            raise ModelError(
                f"{where} keeps running statistics of the data", "track_running_stats=False", "Or use nn.GroupNorm."
            )
        if any(name in _STATISTICS for name, _ in module.named_buffers(recurse=False)):
            raise ModelError(f"{where} keeps running statistics of the data", "no such buffers", "Use nn.GroupNorm.")
        if getattr(module, "inplace", False):
            raise ModelError(f"{where} works in place, under the hooks", "inplace=False", "Set inplace=False.")
        if getattr(module, "padding_mode", "zeros") != "zeros":
            raise ModelError(
                f"{where} has padding_mode={module.padding_mode!r}, for which Opacus' gradients are wrong",
                "padding_mode='zeros'",
                "Put nn.ReflectionPad2d or nn.CircularPad2d before a convolution without padding.",
            )
        if isinstance(module, nn.modules.dropout._DropoutNd):
            raise ModelError(
                f"{where} draws from the shared random state", "no dropout", "Leave it out; noise regularises already."
            )
        trainable = [name for name, p in module.named_parameters(recurse=False) if p.requires_grad]
        if trainable and type(module) not in GradSampleModule.GRAD_SAMPLERS:
            supported = sorted(
                {kind.__name__ for kind in GradSampleModule.GRAD_SAMPLERS if kind.__module__[:2] == "to"}
            )
            raise ModelError(
                f"{where} holds parameters {trainable} itself, and Opacus has no per-example gradients for it",
                f"parameters inside {supported}",
                "Build it of these layers.",
            )
        for name, parameter in module.named_parameters(recurse=False):
            full_name = f"{path}.{name}".lstrip(".")
            if id(parameter) in owners:
                raise ModelError(
                    f"{where} shares parameter {full_name!r} with {owners[id(parameter)]!r}",
                    "a parameter in one place",
                    "Give each layer its own.",
                )
            owners[id(parameter)] = full_name
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError("a network without trainable parameters", "at least one", "Unfreeze some, or take another.")
