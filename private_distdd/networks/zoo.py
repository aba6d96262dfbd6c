"""The registered networks: convnet, lenet, mlp, resnet."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from private_distdd.errors import ModelError
from private_distdd.limits import DEPTH, WIDTH
from private_distdd.networks.register import ImageShape, register_model

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {  # none of them in place: hooks read what they were given
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.01),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "elu": nn.ELU,
}


@register_model("convnet")
def convnet(
    shape: ImageShape,
    num_classes: int,
    *,
    depth: int | None = None,
    width: int = 128,
    norm: str = "instance",
    activation: str = "relu",
) -> nn.Module:
    """The ConvNet of the distillation literature: depth x (3x3 convolution, norm, activation, 2x2 average pooling).

    Grey images of 28 x 28 are padded to 32 x 32 by the first convolution (padding 3), as in DC.

    Args:
        depth: blocks, 1 ... 64; each halves height and width, which must not fall below 1.  Default: 3, or as many
            as leave 4 x 4 (what 3 leave of 32 x 32) of smaller images: below that an instance norm erases too much.
        width: channels of each block, 1 ... 16,384 (a multiple of 4 with `norm="group"`).
        norm: "instance" (GroupNorm with a group a channel, with weights, as in DC), "group" (4 groups) or "none".
        activation: a key of `ACTIVATIONS`.

    Raises:
        ModelError: an argument is outside its range, or the images are too small for the depth.

    Source: Gidaris and Komodakis 2018; Zhao, Mopuri and Bilen 2021 (DC), networks.py.
    """
    padding = 3 if shape == (1, 28, 28) else 1
    rows, columns = (side + 2 * padding - 2 for side in shape[1:])
    most = int(math.log2(min(rows, columns)))
    if depth is None:
        depth = min(3, max(1, most - 2))
    _check_sizes(depth=depth, width=width)
    groups = _choice("norm", norm, {"instance": width, "group": 4, "none": 0})
    make_activation = _choice("activation", activation, ACTIVATIONS)
    if groups and width % groups:
        raise ModelError(f"width = {width} with norm='group'", "a multiple of 4", "Change the width or the norm.")
    if depth > most:
        raise ModelError(
            f"depth = {depth} for images of {shape[1]} x {shape[2]}",
            f"a depth of at most {most}",
            "Each block halves the image; take fewer.",
        )
    layers: list[nn.Module] = []
    for block in range(depth):
        first = block == 0
        layers.append(nn.Conv2d(shape[0] if first else width, width, 3, padding=padding if first else 1))
        if groups:
            layers.append(nn.GroupNorm(groups, width))
        layers += [make_activation(), nn.AvgPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * (rows >> depth) * (columns >> depth), num_classes))


@register_model("lenet")
def lenet(shape: ImageShape, num_classes: int, *, activation: str = "relu", pooling: str = "max") -> nn.Module:
    """LeNet-5 with ReLU and max pooling, as in DC (here padding 2 for colour too); images of at least 12 x 12.

    Args:
        activation: a key of `ACTIVATIONS`.
        pooling: "max" or "average"; a smooth network, as LeCun's own, takes "average" with activation "tanh".

    Raises:
        ModelError: the images are smaller, or an argument is outside its range.

    Source: LeCun et al. 1998; Zhao, Mopuri and Bilen 2021 (DC), networks.py.
    """
    channels, height, width = shape
    if min(height, width) < 12:
        raise ModelError(f"lenet for images of {height} x {width}", "at least 12 x 12", "Use 'convnet' or 'mlp'.")
    make_activation = _choice("activation", activation, ACTIVATIONS)
    pools: dict[str, type[nn.Module]] = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}
    make_pool = _choice("pooling", pooling, pools)
    features = 16 * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2)
    return nn.Sequential(
        nn.Conv2d(channels, 6, kernel_size=5, padding=2),
        make_activation(),
        make_pool(2),
        nn.Conv2d(6, 16, kernel_size=5),
        make_activation(),
        make_pool(2),
        nn.Flatten(),
        nn.Linear(features, 120),
        make_activation(),
        nn.Linear(120, 84),
        make_activation(),
        nn.Linear(84, num_classes),
    )


@register_model("mlp")
def mlp(shape: ImageShape, num_classes: int, *, depth: int = 2, width: int = 128) -> nn.Module:
    """`depth` hidden layers (1 ... 64) of `width` units (1 ... 16,384) with ReLU.

    Raises:
        ModelError: an argument is outside its range.
    """
    _check_sizes(depth=depth, width=width)
    sizes = [math.prod(shape)] + [width] * depth
    hidden = [layer for i, o in itertools.pairwise(sizes) for layer in (nn.Linear(i, o), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, num_classes))


@register_model("resnet")
def resnet(shape: ImageShape, num_classes: int, *, width: int = 32, blocks: int = 1) -> nn.Module:
    """A small residual network: three stages of `blocks` basic blocks, `width`, 2 and 4 `width` channels wide.

    GroupNorm of 8 groups throughout; the second and third stage halve the image; global average pooling.

    Args:
        width: a multiple of 8, 8 ... 16,384.
        blocks: per stage, 1 ... 64.

    Raises:
        ModelError: an argument is outside its range.

    Source: He et al. 2016; Wu and He 2018 (GroupNorm).
    """
    _check_sizes(width=width, blocks=blocks)
    if width % 8:
        raise ModelError(f"width = {width}", "a multiple of 8", "Round it up.")
    layers: list[nn.Module] = [nn.Conv2d(shape[0], width, 3, padding=1, bias=False), nn.GroupNorm(8, width)]
    layers.append(nn.ReLU())
    channels = width
    for stage in range(3):
        for block in range(blocks):
            layers.append(_Residual(channels, width << stage, stride=2 if stage and not block else 1))
            channels = width << stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


class _Residual(nn.Module):
    """relu(shortcut(x) + norm(conv(relu(norm(conv(x)))))) for x [n, channels, h, w]."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
            nn.GroupNorm(8, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.GroupNorm(8, width),
        )
        same = channels == width and stride == 1
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.GroupNorm(8, width))
        )

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(self.shortcut(images) + self.residual(images))


def _check_sizes(**sizes: object) -> None:
    for name, value in sizes.items():
        most = WIDTH if name == "width" else DEPTH
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise ModelError(f"{name} = {value!r}", f"a whole number, 1 ... {most}", "Choose another one.")


_Option = TypeVar("_Option")


def _choice(name: str, value: object, options: Mapping[str, _Option]) -> _Option:
    if not isinstance(value, str) or value not in options:
        raise ModelError(f"{name} = {value!r}", f"one of {sorted(options)}", "Choose one of these.")
    return options[value]
