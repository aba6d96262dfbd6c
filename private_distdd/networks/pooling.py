"""2 x 2 average pooling for training on a CPU: the values of `nn.AvgPool2d(2)`, in half of the time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class _Halved(torch.autograd.Function):
    """float [..., H, W] -> [..., H // 2, W // 2]; torch's kernel goes value by value, these sums go by many at once."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        ctx.shape = images.shape
        first, *others = _quarters(images)
        total = first + others[0]
        for other in others[1:]:  # in the order of torch's kernel, so that no bit differs
            total += other
        return total.mul_(0.25)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        share = 0.25 * gradients[0]
        even = all(side % 2 == 0 for side in ctx.shape[-2:])
        spread = (share.new_empty if even else share.new_zeros)(ctx.shape)
        for part in _quarters(spread):
            part.copy_(share)
        return spread


def _quarters(images: Tensor) -> list[Tensor]:
    """Views of every second pixel, [..., H // 2, W // 2] each: top left, top right, below left, below right."""
    rows, columns = (side // 2 * 2 for side in images.shape[-2:])
    return [images[..., top:rows:2, left:columns:2] for top in (0, 1) for left in (0, 1)]


@contextmanager
def quick_pooling(network: nn.Module) -> Iterator[None]:
    """Within it, every `nn.AvgPool2d(2)` of `network` pools so; for first derivatives, on a CPU."""
    usual = nn.AvgPool2d(2)
    pools = [
        module
        for module in network.modules()
        if type(module) is nn.AvgPool2d
        and all(getattr(module, name) == getattr(usual, name) for name in nn.AvgPool2d.__constants__)
    ]
    for module in pools:
        module.forward = _Halved.apply  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in pools:
            del module.forward
