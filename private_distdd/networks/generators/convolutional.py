"""A small convolutional generator, random: its structure alone is a prior (a deep image prior)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from private_distdd.data.info import DatasetInfo
from private_distdd.networks.generators.generator import NOTHING, Generator
from private_distdd.networks.seeding import default_generator
from private_distdd.validate import require_count

_SHRUNK = 4  # sides of the latents, of the images' sides


class Decoder(nn.Module):
    """Latents [n, latent_channels, ceil(H / 4), ceil(W / 4)] to pixels in [0, 1], [n, C, H, W]: two enlargements.

    Args:
        shape: (C, H, W) of the images.
        latent_channels: of the latents, >= 1.
        width: channels of the hidden layers, >= 1.
    """

    def __init__(self, shape: tuple[int, ...], latent_channels: int, width: int) -> None:
        super().__init__()
        channels, height, wide = shape
        self._sizes = [(-(-height // 2), -(-wide // 2)), (height, wide)]
        self.first = nn.Conv2d(latent_channels, width, 3, padding=1)
        self.hidden = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in self._sizes)
        self.norms = nn.ModuleList(nn.GroupNorm(1, width) for _ in range(3))
        self.last = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """The images."""
        found = F.leaky_relu(self.norms[0](self.first(latents)), 0.2)
        for size, layer, norm in zip(self._sizes, self.hidden, list(self.norms)[1:], strict=True):
            found = F.interpolate(found, size=size, mode="bilinear")
            found = F.leaky_relu(norm(layer(found)), 0.2)
        return torch.sigmoid(self.last(found))


def latent_sides(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of `Decoder`'s latents."""
    return -(-shape[1] // _SHRUNK), -(-shape[2] // _SHRUNK)


def convolutional(
    info: DatasetInfo, seed: int, *, latent_channels: int = 16, width: int = 32, learned: bool = True
) -> Generator:
    """A random `Decoder` for these images, whose weights are learned with the latents unless `learned` is False.

    Args:
        info: public shape.
        seed: of the first weights, public.
        latent_channels, width: see `Decoder`.
        learned: see `Generator`.

    Raises:
        ConfigurationError: a number is out of range, or examples are rows of a table.
    """
    info.form.require_spatial("parametrisation = 'convolutional'", "'pixels', which takes rows as they are")
    for name, value in (("latent_channels", latent_channels), ("width", width)):
        require_count(name, value, "16 and 32 are usual.")
    with default_generator(seed):
        network = Decoder(info.shape, latent_channels, width)
    return Generator(network, (latent_channels, *latent_sides(info.shape)), "convolutional", NOTHING, learned)
