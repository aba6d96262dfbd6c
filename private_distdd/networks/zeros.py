"""Weights to try a network with, where its own would hide what it does."""

from __future__ import annotations

import torch
from torch import nn


def fill_zeros(network: nn.Module) -> None:
    """Fill weights that are all zero, as a last layer's at the start may be, with public numbers, in place.

    With such weights the logits depend on nothing, and no gradient comes to the layers before.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in network.parameters():
            if weights.dim() > 1 and not weights.any():
                weights.copy_(torch.randn(weights.shape, generator=generator) / weights[0].numel() ** 0.5)
