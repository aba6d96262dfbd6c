"""The check that every network must pass: an example's gradient depends on the weights and that example alone (A2)."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from opacus import GradSampleModule
from torch import Tensor, nn

from private_distdd.errors import ModelError
from private_distdd.networks.register import ImageShape


def validate_model(model: nn.Module, shape: ImageShape) -> None:
    """Refuse a network whose per-example gradients would not be what the privacy theorem assumes (A2).

    First the structure is read, then a copy of the network runs in float64 on four fixed dummy images (never on data):
    forward passes must be finite, repeatable, leave every buffer and every random generator alone, and give each image
    the logits it gets by itself; and Opacus' per-example gradients must equal those of one-image batches.  The model
    itself, and the default random state, are left as they were.

    For foreign code this is a test, not a proof: a forward pass that couples images only on rare pixels, or only in
    large batches, is not found.  The check holds for training mode, in which gradients are taken.

    Args:
        model: the plain network (not wrapped in GradSampleModule).
        shape: (C, H, W) of one example.

    Raises:
        ModelError: names the layer, says what breaks the theorem, and what to use instead.
    """
    if isinstance(model, GradSampleModule) or hasattr(model, "autograd_grad_sample_hooks"):
        raise ModelError("a network with Opacus hooks", "a plain nn.Module", "Pass it before it is wrapped.")
    _check_structure(model)
    _check_behaviour(model, shape)


_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def _check_structure(model: nn.Module) -> None:
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


def _check_behaviour(model: nn.Module, shape: ImageShape) -> None:
    remedy = "Write a forward pass that computes each image's logits from that image and the weights alone."
    with torch.random.fork_rng(devices=[]):
        try:
            probe = copy.deepcopy(model).to("cpu", torch.float64).train()
            generator = torch.Generator().manual_seed(0)
            images = torch.randn((4, *shape), dtype=torch.float64, generator=generator)
            buffers = {name: buffer.clone() for name, buffer in probe.named_buffers()}
            random_state = torch.get_rng_state()
            with torch.no_grad():
                logits, again = probe(images), probe(images)
                alone = torch.cat([probe(image[None]) for image in images])
            # The first call is the reference: a network that changes itself shows in the later ones.
            faults = {
                "draws random numbers": not torch.equal(random_state, torch.get_rng_state()),
                "changes its buffers": any(not torch.equal(b, buffers[name]) for name, b in probe.named_buffers()),
                "does not give one row of logits an image": logits.dim() != 2 or len(logits) != len(images),
                "gives NaN or infinite logits": not bool(torch.isfinite(logits).all()),
                "gives other logits the second time": not torch.equal(logits, again),
                "lets one image's logits depend on the others": not _close(logits, alone, float(logits.abs().max())),
            }
            for fault, found in faults.items():
                if found:
                    raise ModelError(f"the network {fault}", "a pure function of one image", remedy)
            wrong = _wrong_gradients(probe, images)
        except ModelError:
            raise
        except Exception as error:  # foreign code, on dummy data: whatever it raises belongs into the sentence
            raise ModelError(
                f"the network fails on float64 images {[4, *shape]} under Opacus hooks: "
                f"{type(error).__name__}: {error}",
                f"images [n, {', '.join(map(str, shape))}] of any floating point type to logits [n, classes]",
                "Check the image shape; use no in-place operation (relu_, +=) and no fixed type or batch size.",
            ) from error
    if wrong is not None:
        raise ModelError(
            f"Opacus' per-example gradients of {wrong!r} are wrong or missing", "those of one-image batches", remedy
        )


def _wrong_gradients(probe: nn.Module, images: Tensor) -> str | None:
    """The first parameter whose per-example gradients are not those of one-image batches, if any."""
    parameters = {name: p for name, p in probe.named_parameters() if p.requires_grad}
    targets = torch.arange(len(images)) % probe(images[:1]).shape[1]
    oracle = [
        torch.autograd.grad(
            F.cross_entropy(probe(image[None]), target[None]), list(parameters.values()), materialize_grads=True
        )
        for image, target in zip(images, targets, strict=True)
    ]
    # One scale for all: behind a normalisation a bias has gradient 0 up to rounding, and clipping sees the whole norm.
    scale = max(float(gradient.abs().max()) for gradients in oracle for gradient in gradients)
    hooked = GradSampleModule(probe, loss_reduction="sum")
    # Images that ask for a gradient let the first layer's full backward hook fire as PyTorch means it to.
    torch.autograd.backward(F.cross_entropy(hooked(images.requires_grad_()), targets, reduction="sum"))
    for index, (name, parameter) in enumerate(parameters.items()):
        expected = torch.stack([gradients[index] for gradients in oracle])
        found = getattr(parameter, "grad_sample", None)  # None where the forward pass never used it
        if not isinstance(found, Tensor) or not _close(expected, found, scale):
            return name
    return None


def _close(expected: Tensor, found: Tensor, scale: float) -> bool:
    """Equal up to float64 rounding of numbers as large as `scale`."""
    return expected.shape == found.shape and bool(((found - expected).abs() <= 1e-9 * scale).all())  # NaN: no
