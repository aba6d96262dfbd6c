"""A small residual network."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from private_distdd.data.form import Shape
from private_distdd.errors import ModelError
from private_distdd.networks.register import register_model
from private_distdd.networks.zoo.arguments import check_sizes, require_image


@register_model("resnet")
def resnet(shape: Shape, num_classes: int, *, width: int = 32, blocks: int = 1) -> nn.Module:
    """A small residual network: three stages of `blocks` basic blocks, `width`, 2 and 4 `width` channels wide.

    GroupNorm of 8 groups throughout; the second and third stage halve the image; global average pooling.

    Args:
        width: a multiple of 8, 8 ... 16,384.
        blocks: per stage, 1 ... 64.

    Raises:
        ModelError: an argument is outside its range.

    Source: He et al. 2016; Wu and He 2018 (GroupNorm).
    """
    image_channels, _, _ = require_image("resnet", shape)
    check_sizes(width=width, blocks=blocks)
    if width % 8:
        raise ModelError(f"width = {width}", "a multiple of 8", "Round it up.")
    layers: list[nn.Module] = [nn.Conv2d(image_channels, width, 3, padding=1, bias=False), nn.GroupNorm(8, width)]
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
