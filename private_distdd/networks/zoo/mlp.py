"""The multi-layer perceptron, for examples of any form."""

from __future__ import annotations

import itertools
import math

from torch import nn

from private_distdd.data.form import Shape
from private_distdd.networks.register import register_model
from private_distdd.networks.zoo.arguments import check_sizes


@register_model("mlp")
def mlp(shape: Shape, num_classes: int, *, depth: int = 2, width: int = 128) -> nn.Module:
    """For any examples, flattened: `depth` hidden layers (1 ... 64) of `width` units (1 ... 16,384) with ReLU.

    Raises:
        ModelError: an argument is outside its range.
    """
    check_sizes(depth=depth, width=width)
    sizes = [math.prod(shape)] + [width] * depth
    hidden = [layer for i, o in itertools.pairwise(sizes) for layer in (nn.Linear(i, o), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, num_classes))
