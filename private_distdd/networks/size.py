"""What a network is made of, counted on one image that takes no memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from private_distdd.errors import ModelError
from private_distdd.networks.register import ImageShape


@dataclass(frozen=True)
class NetworkSize:
    """Counts that follow from a network's specification and the images' shape.

    Args:
        parameters: trainable ones.
        activations: values that its layers hand on, for one image.
        work: multiplications and additions of one image's forward pass, and 10^5 for each layer that is called.
        features: inputs of its last layer; 0 where that is not linear.
    """

    parameters: int
    activations: int
    work: int
    features: int


_TOLL = 10**5  # operations that a layer's call is worth, however small the layer


def measure(model: nn.Module, shape: ImageShape, device: str) -> NetworkSize:
    activations = 0

    def count(_: nn.Module, __: object, output: object) -> None:
        nonlocal activations
        activations += output.numel() if isinstance(output, Tensor) else 0

    layers = [module for module in model.modules() if not list(module.children())]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.zeros((1, *shape), device=device))
    except Exception as error:  # foreign code, on a black image: whatever it raises belongs into the sentence
        raise ModelError(
            f"the network fails on an image {list(shape)}: {type(error).__name__}: {error}",
            f"images [n, {', '.join(map(str, shape))}] to logits [n, classes]",
            "Check the image shape.",
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
