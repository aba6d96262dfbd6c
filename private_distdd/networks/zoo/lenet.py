"""LeNet-5."""

from __future__ import annotations

from torch import nn

from private_distdd.data.form import Shape
from private_distdd.errors import ModelError
from private_distdd.networks.register import register_model
from private_distdd.networks.zoo.arguments import ACTIVATIONS, POOLINGS, choice, require_image


@register_model("lenet")
def lenet(shape: Shape, num_classes: int, *, activation: str = "relu", pooling: str = "max") -> nn.Module:
    """LeNet-5 with ReLU and max pooling, as in DC (here padding 2 for colour too); images of at least 12 x 12.

    Args:
        activation: a key of `ACTIVATIONS`.
        pooling: "max" or "average"; a smooth network, as LeCun's own, takes "average" with activation "tanh".

    Raises:
        ModelError: the images are smaller, or an argument is outside its range.

    Source: LeCun et al. 1998; Zhao, Mopuri and Bilen 2021 (DC), networks.py.
    """
    channels, height, width = require_image("lenet", shape)
    if min(height, width) < 12:
        raise ModelError(f"lenet for images of {height} x {width}", "at least 12 x 12", "Use 'convnet' or 'mlp'.")
    make_activation = choice("activation", activation, ACTIVATIONS)
    make_pool = choice("pooling", pooling, POOLINGS)
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
