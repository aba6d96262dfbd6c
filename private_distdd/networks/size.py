"""What a network is made of, counted on one example that takes no memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from private_distdd.data.form import Shape, form_of
from private_distdd.errors import ModelError


@dataclass(frozen=True)
class NetworkSize:
    """Counts that follow from a network's specification and the examples' shape.

    Args:
        parameters: trainable ones.
        activations: values that its layers hand on, for one example.
        work: multiplications and additions of one example's forward pass, and 10^5 for each layer that is called.
        features: inputs of its last layer; 0 where that is not linear.
    """

    parameters: int
    activations: int
    work: int
    features: int


_TOLL = 10**5  # operations that a layer's call is worth, however small the layer


def measure(model: nn.Module, shape: Shape, device: str) -> NetworkSize:
    activations = 0

    def count(_: nn.Module, __: object, output: object) -> None:
        nonlocal activations
        activations += output.numel() if isinstance(output, Tensor) else 0

    layers = [module for module in model.modules() if not list(module.children())]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.zeros((1, *shape), device=device))
    except Exception as error:  # foreign code, on zeros: whatever it raises belongs into the sentence
        raise ModelError(
            f"the network fails on one {form_of(shape).one} {list(shape)}: {type(error).__name__}: {error}",
            f"{form_of(shape).many} [n, {', '.join(map(str, shape))}] to logits [n, classes]",
            f"Check the {form_of(shape).one} shape.",
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    last = layers[-1]
    return NetworkSize(
        sum(p.numel() for p in model.parameters() if p.requires_grad),
        activations,
        counter.get_total_flops() + _TOLL * len(layers),
        last.in_features if isinstance(last, nn.Linear) else 0,
    )
