"""Images of any size and number of channels, brought to one, by public numbers and each by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from private_distdd.errors import DataError
from private_distdd.limits import PIXELS
from private_distdd.validate import is_whole

Size: TypeAlias = int | Sequence[int]  # height and width, or one number for both

# What an image's mode becomes where the channels are not said.  16 bits (I;16, as X-rays have) are not among these:
# Pillow would cut them at 255.
_PLAIN = {"L": "L", "RGB": "RGB"}
_OTHERS = dict.fromkeys(("1", "LA", "P", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"), "RGB")
_MODES = {1: "L", 3: "RGB"}


def checked_size(size: Size | None) -> tuple[int, int] | None:
    """(height, width).

    Raises:
        DataError: no whole numbers of at least 1, or too many pixels.
    """
    if size is None:
        return None
    sides = tuple(size) if isinstance(size, Sequence) and not isinstance(size, str) else (size, size)
    if len(sides) != 2 or not all(is_whole(side) and side >= 1 for side in sides) or sides[0] * sides[1] > PIXELS:
        raise DataError(
            f"size = {size!r}", "height and width, or one number for both, each at least 1", "64 makes 64 x 64 pixels."
        )
    return int(sides[0]), int(sides[1])


def checked_channels(channels: int | None) -> int | None:
    """1 or 3, or None.

    Raises:
        DataError: another number.
    """
    if channels is not None and (not is_whole(channels) or channels not in _MODES):
        raise DataError(f"channels = {channels!r}", "1 (grey) or 3 (red, green, blue)", "Choose one.")
    return channels


def from_picture(image: Any, where: str, channels: int | None = None) -> Tensor:
    """A Pillow image as uint8 [channels, height, width].

    Args:
        image: of 8 bits a channel.
        where: what it is called in errors.
        channels: see `fitted`; None for images of mode L or RGB, as they are.

    Raises:
        DataError: its mode is another, and `channels` does not say what becomes of it; or it has more than 8 bits.
    """
    if image.mode not in _PLAIN and (channels is None or image.mode not in _OTHERS):
        raise DataError(
            f"{where} has mode {image.mode}",
            "mode L (grey) or RGB, 8 bits; with channels= any mode of 8 bits",
            "Say channels=1 or channels=3 and all images become so."
            if image.mode in _OTHERS
            else "Scale its values to 8 bits, or to floating point in [0, 1] in an .npz.",
        )
    if channels is not None:
        image = image.convert(_MODES[channels])
    pixels = torch.from_numpy(np.array(image))
    return pixels.unsqueeze(0) if pixels.dim() == 2 else pixels.permute(2, 0, 1)


def fitted(pixels: Tensor, channels: int | None, size: tuple[int, int] | None) -> Tensor:
    """Images [..., C, H, W], uint8 or floating point, with so many channels and of this size.

    Args:
        pixels: 1 or 3 channels, where they are to change.
        channels: 1 (of red, green and blue their luma, as ITU-R 601 weighs them) or 3 (grey thrice); None: as they are.
        size: height and width, to which images are stretched or shrunk, bilinearly and with antialiasing; None: as is.

    Raises:
        DataError: other channels that are to change.
    """
    from torchvision.transforms.v2 import functional

    if channels not in (None, pixels.shape[-3]):
        if pixels.shape[-3] not in _MODES:
            raise DataError(f"images of {pixels.shape[-3]} channels", "1 or 3", "Leave channels= out.")
        change = functional.rgb_to_grayscale if channels == 1 else functional.grayscale_to_rgb
        pixels = change(pixels)
    if size not in (None, tuple(pixels.shape[-2:])):
        pixels = functional.resize(pixels, list(size), antialias=True)
        if pixels.is_floating_point():  # rounding: bilinear weights are positive and add up to 1
            pixels = pixels.clamp(0, 1)
    return pixels
