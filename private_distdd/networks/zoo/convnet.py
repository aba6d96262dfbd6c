"""The ConvNet of the distillation literature."""

from __future__ import annotations

import math

from torch import nn

from private_distdd.data.form import Shape
from private_distdd.errors import ModelError
from private_distdd.networks.register import register_model
from private_distdd.networks.zoo.arguments import ACTIVATIONS, POOLINGS, check_sizes, choice, require_image


@register_model("convnet")
def convnet(
    shape: Shape,
    num_classes: int,
    *,
    depth: int | None = None,
    width: int = 128,
    norm: str = "instance",
    activation: str = "relu",
    pooling: str = "average",
) -> nn.Module:
    """The ConvNet of the distillation literature: depth x (3x3 convolution, norm, activation, 2x2 pooling).

    Grey images of 28 x 28 are padded to 32 x 32 by the first convolution (padding 3), as in DC.

    Args:
        depth: blocks, 1 ... 64; each halves height and width, which must not fall below 1.  Default: 3, or as many
            as leave 4 x 4 (what 3 leave of 32 x 32) of smaller images: below that an instance norm erases too much.
        width: channels of each block, 1 ... 16,384 (a multiple of 4 with `norm="group"`).
        norm: "instance" (GroupNorm with a group a channel, with weights, as in DC), "group" (4 groups) or "none".
        activation: a key of `ACTIVATIONS`.
        pooling: "average" or "max", over 2 x 2.

    Raises:
        ModelError: an argument is outside its range, or the images are too small for the depth.

    Source: Gidaris and Komodakis 2018; Zhao, Mopuri and Bilen 2021 (DC), networks.py.
    """
    channels, high, wide = require_image("convnet", shape)
    padding = 3 if shape == (1, 28, 28) else 1
    rows, columns = (side + 2 * padding - 2 for side in (high, wide))
    most = int(math.log2(min(rows, columns)))
    if depth is None:
        depth = min(3, max(1, most - 2))
    check_sizes(depth=depth, width=width)
    if norm == "batch":
        reason = "Batch norm mixes the examples of a batch, so that no bound holds on what one of them adds."
        raise ModelError("norm = 'batch'", "one of 'group', 'instance', 'none'", reason)
    groups = choice("norm", norm, {"instance": width, "group": 4, "none": 0})
    make_activation = choice("activation", activation, ACTIVATIONS)
    make_pool = choice("pooling", pooling, POOLINGS)
    if groups and width % groups:
        raise ModelError(f"width = {width} with norm='group'", "a multiple of 4", "Change the width or the norm.")
    if depth > most:
        raise ModelError(
            f"depth = {depth} for images of {high} x {wide}",
            f"a depth of at most {most}",
            "Each block halves the image; take fewer.",
        )
    layers: list[nn.Module] = []
    for block in range(depth):
        first = block == 0
        layers.append(nn.Conv2d(channels if first else width, width, 3, padding=padding if first else 1))
        if groups:
            layers.append(nn.GroupNorm(groups, width))
        layers += [make_activation(), make_pool(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * (rows >> depth) * (columns >> depth), num_classes))
