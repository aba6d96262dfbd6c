"""What the arguments of several networks have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from torch import nn

from private_distdd.data.form import Shape, form_of
from private_distdd.errors import ModelError
from private_distdd.limits import DEPTH, WIDTH
from private_distdd.validate import is_whole

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {  # none of them in place: hooks read what they were given
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.01),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "elu": nn.ELU,
}

POOLINGS: dict[str, type[nn.Module]] = {"average": nn.AvgPool2d, "max": nn.MaxPool2d}


def require_image(name: str, shape: Shape) -> tuple[int, int, int]:
    """(channels, height, width) of the images that a network is to take.

    Raises:
        ModelError: the examples are no images.
    """
    if len(shape) != 3:
        form = form_of(shape)
        raise ModelError(f"{name!r} for {form.many} of {form.words}", "images", "Use 'mlp', which takes any example.")
    channels, height, width = shape
    return channels, height, width


def check_sizes(**sizes: object) -> None:
    for name, value in sizes.items():
        most = WIDTH if name == "width" else DEPTH
        if not is_whole(value) or not 1 <= value <= most:
            raise ModelError(f"{name} = {value!r}", f"a whole number, 1 ... {most}", "Choose another one.")


_Option = TypeVar("_Option")


def choice(name: str, value: object, options: Mapping[str, _Option]) -> _Option:
    if not isinstance(value, str) or value not in options:
        raise ModelError(f"{name} = {value!r}", f"one of {sorted(options)}", "Choose one of these.")
    return options[value]
