"""Images: the form of examples of shape (channels, height, width)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from private_distdd.data.form import Form, register_form
from private_distdd.errors import DataError
from private_distdd.limits import CHANNELS, PIXELS

_GAP = 2  # pixels between two images of a picture
_SHOWN = 48  # an image is shown at least this wide and high, in pixels
_LETTERS = 32  # of a class's name that are shown
_LARGEST_PICTURE = 1 << 26  # pixels up to which images are enlarged


@register_form
@dataclass(frozen=True)
class ImageForm(Form):
    """(channels, height, width), each at least 1; at most 4,096 channels and 2^24 values, which are in [0, 1]."""

    name: ClassVar[str] = "image"
    rank: ClassVar[int] = 3
    layout: ClassVar[str] = "(channels, height, width)"
    key: ClassVar[str] = "image_shape"
    one: ClassVar[str] = "image"
    many: ClassVar[str] = "images"
    value: ClassVar[str] = "pixel"
    spatial: ClassVar[bool] = True
    bounds: ClassVar[tuple[float, float] | None] = (0.0, 1.0)  # black and white
    usual_mean: ClassVar[float] = 0.5
    usual_std: ClassVar[float] = 0.5

    def _check_size(self) -> None:
        if self.lanes > CHANNELS or math.prod(self.shape) > PIXELS:  # each channel has constants of its own
            raise DataError(
                f"shape = {self.shape!r}", f"at most {CHANNELS} channels and {PIXELS} values", "Take smaller images."
            )

    @property
    def lanes(self) -> int:
        """One a channel."""
        return self.shape[0]

    @property
    def words(self) -> str:
        """Height, width and channels."""
        channels, height, width = self.shape
        return f"{height} by {width} pixels, {channels} channel{'s' if channels > 1 else ''}"

    def spread(self, constants: Sequence[float]) -> Tensor:
        """float32 [C, 1, 1]."""
        return torch.tensor(constants).view(-1, 1, 1)

    def augment(self, examples: Tensor, lowest: Tensor | None, generator: torch.Generator) -> Tensor:
        """[n, C, H, W], each moved by its own whole number of pixels, with black coming in.

        Down or up by at most H / 8 pixels, right or left by at most W / 8, at least 1; uniformly drawn.
        """
        count, _, height, width = examples.shape
        down, right = max(1, height // 8), max(1, width // 8)
        black = torch.zeros(()) if lowest is None else lowest.to(examples.device)
        padded = F.pad(examples - black, (right, right, down, down)) + black
        rows = torch.randint(2 * down + 1, (count, 1), generator=generator) + torch.arange(height)
        columns = torch.randint(2 * right + 1, (count, 1), generator=generator) + torch.arange(width)
        moved = padded[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # [n, H, W, C]
        return moved.permute(0, 3, 1, 2)

    def picture(self, examples: Tensor, num_classes: int, denormalise: Callable[[Tensor], Tensor]) -> NDArray[np.uint8]:
        """The images themselves, one row a class, de-normalised, clamped to [0, 1].

        Small images are enlarged by a whole factor with nearest neighbour.  With 3 channels they are red, green, blue;
        with any other number their mean is shown in grey.
        """
        from torchvision.utils import make_grid  # heavy

        pixels = denormalise(examples).clamp(0, 1).mul(255).round().to(torch.uint8)
        channels, height, width = self.shape
        if channels != 3:
            pixels = pixels.to(torch.float32).mean(dim=1, keepdim=True).round().to(torch.uint8).expand(-1, 3, -1, -1)
        # Thin images would become a picture a thousand times the size of their file.
        room = math.isqrt(_LARGEST_PICTURE // (len(pixels) * height * width))
        factor = max(1, min(-(-_SHOWN // min(height, width)), room))
        pixels = pixels.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
        grid = make_grid(pixels, len(pixels) // num_classes, padding=_GAP, pad_value=255)[:, _GAP:-_GAP, _GAP:-_GAP]
        picture: NDArray[np.uint8] = grid.permute(1, 2, 0).contiguous().numpy()
        return picture

    def named(self, picture: NDArray[np.uint8], classes: Sequence[str]) -> NDArray[np.uint8]:
        """The names stand on the left, one before each row."""
        height = (len(picture) + _GAP) // len(classes) - _GAP
        return np.concatenate([_names(classes, height, len(picture)), picture], axis=1)


def _names(classes: Sequence[str], height: int, total: int) -> NDArray[np.uint8]:
    """Names before rows of images, black on white, uint8 [total, width, 3]; in letters that every machine has alike.

    Args:
        classes: the names; of long ones the beginning is shown, and a question mark for what the font has not.
        height: of one row, without the gap.
        total: of all rows.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default_imagefont()
    shown = [name[:_LETTERS].encode("latin-1", "replace").decode("latin-1") for name in classes]
    width = max(int(font.getbbox(name)[2]) for name in shown) + 2 * _GAP
    column = Image.new("L", (width, total), 255)
    draw = ImageDraw.Draw(column)
    for row, name in enumerate(shown):
        draw.text((_GAP, row * (height + _GAP) + (height - font.getbbox(name)[3]) // 2), name, fill=0, font=font)
    return np.repeat(np.asarray(column)[:, :, None], 3, axis=2)
