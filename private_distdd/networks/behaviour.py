"""What a network must do, tried on dummy examples (A2)."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from private_distdd.data.form import Shape, form_of
from private_distdd.errors import ModelError
from private_distdd.networks.per_example import PerExampleGradients
from private_distdd.networks.seeding import default_generator
from private_distdd.networks.zeros import fill_zeros


def check_behaviour(model: nn.Module, shape: Shape) -> None:
    """Run a copy on four fixed dummy examples: it must be a pure function of each, with right per-example gradients.

    Args:
        model: a network that `check_structure` accepts.
        shape: of one example.

    Raises:
        ModelError: says what it does instead.
    """
    form = form_of(shape)
    remedy = f"Write a forward pass that computes each {form.one}'s logits from that {form.one} and the weights alone."
    with default_generator(None):
        try:
            probe = copy.deepcopy(model).to("cpu", torch.float64).train()
            fill_zeros(probe)
            generator = torch.Generator().manual_seed(0)
            examples = torch.randn((4, *shape), dtype=torch.float64, generator=generator)
            buffers = {name: buffer.clone() for name, buffer in probe.named_buffers()}
            random_state = torch.get_rng_state()
            with torch.no_grad():
                logits, again = probe(examples), probe(examples)
                alone = torch.cat([probe(example[None]) for example in examples])
            # The first call is the reference: a network that changes itself shows in the later ones.
            scale = float(logits.abs().max())
            faults = {
                "draws random numbers": not torch.equal(random_state, torch.get_rng_state()),
                "changes its buffers": any(not torch.equal(b, buffers[name]) for name, b in probe.named_buffers()),
                f"does not give one row of logits for one {form.one}": logits.dim() != 2 or len(logits) != 4,
                "gives NaN or infinite logits": not bool(torch.isfinite(logits).all()),
                "gives other logits the second time": not torch.equal(logits, again),
                f"lets one {form.one}'s logits depend on the others": not _close(logits, alone, scale),
            }
            for fault, found in faults.items():
                if found:
                    raise ModelError(f"the network {fault}", f"a pure function of one {form.one}", remedy)
            wrong = _wrong_gradients(probe, examples)
        except ModelError:
            raise
        except Exception as error:  # foreign code, on dummy data: whatever it raises belongs into the sentence
            raise ModelError(
                f"the network fails on float64 {form.many} {[4, *shape]} under Opacus hooks: "
                f"{type(error).__name__}: {error}",
                f"{form.many} [n, {', '.join(map(str, shape))}] of any floating point type to logits [n, classes]",
                f"Check the {form.one} shape; use no in-place operation (relu_, +=) and no fixed type or batch size.",
            ) from error
    if wrong is not None:
        raise ModelError(
            f"Opacus' per-example gradients of {wrong!r} are wrong or missing",
            f"those of batches of one {form.one}",
            remedy,
        )


def _wrong_gradients(probe: nn.Module, examples: Tensor) -> str | None:
    """The first parameter whose per-example gradients are not those of batches of one example, if any."""
    parameters = {name: p for name, p in probe.named_parameters() if p.requires_grad}
    targets = torch.arange(len(examples)) % probe(examples[:1]).shape[1]
    oracle = [
        torch.autograd.grad(
            F.cross_entropy(probe(example[None]), target[None]), list(parameters.values()), allow_unused=True
        )
        for example, target in zip(examples, targets, strict=True)
    ]
    # One scale for all: behind a normalisation a bias has gradient 0 up to rounding, and clipping sees the whole norm.
    scale = max(float(g.abs().max()) for gradients in oracle for g in gradients if g is not None)
    gradients = PerExampleGradients(probe, at_once=2)  # two parts, as of a large network
    found = gradients.named_columns(gradients.rows(examples, targets))
    for index, name in enumerate(parameters):
        own = [alone[index] for alone in oracle]
        if any(g is None for g in own) or not _close(torch.stack(own), found[name], scale):  # None: it is never used
            return name
    return None


def _close(expected: Tensor, found: Tensor, scale: float) -> bool:
    """Equal up to float64 rounding of numbers as large as `scale`."""
    return expected.shape == found.shape and bool(((found - expected).abs() <= 1e-9 * scale).all())  # NaN: no
