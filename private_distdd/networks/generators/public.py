"""A generator out of public images: the decoder of a small autoencoder, which the server trains."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from private_distdd.data.dataset import ImageDataset
from private_distdd.networks.generators.convolutional import Decoder, latent_sides
from private_distdd.networks.generators.generator import Generator
from private_distdd.networks.seeding import default_generator
from private_distdd.validate import require_count

_RATE, _BATCH = 2e-3, 128


def public_generator(
    public: ImageDataset,
    *,
    latent_channels: int = 4,
    width: int = 32,
    epochs: int = 5,
    seed: int = 0,
    device: str = "cpu",
    learned: bool = False,
) -> Generator:
    """Train an autoencoder on images that anybody may see, and keep its decoder.

    Its latents have mean 0 and variance 1 over each image's, as the noise has from which S starts.  The images must be
    public, and be no client's: whatever they show, S may show.  The card names their data set.

    Args:
        public: the images, of the clients' shape; labels are not looked at.
        latent_channels: of the latents, each of a quarter of the image's sides, >= 1.
        width: channels of the hidden layers, >= 1.
        epochs: passes over the images, >= 1, in batches of 128, by Adam at rate 0.002 on the squared error.
        seed: of weights and order.
        device: where it is trained.
        learned: see `Generator`.

    Raises:
        ConfigurationError: a number is out of range, or examples are rows of a table.
    """
    info = public.info
    info.form.require_spatial("a generator out of public rows", "images")
    for name, value in (("latent_channels", latent_channels), ("width", width), ("epochs", epochs)):
        require_count(name, value, "4, 32 and 5 are usual.")
    images = info.denormalise(public.images).to(device)
    with default_generator(seed):
        encoder = nn.Sequential(
            nn.Conv2d(info.shape[0], width, 3, padding=1, stride=2),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, width, 3, padding=1, stride=2),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, latent_channels, 3, padding=1),
            nn.GroupNorm(1, latent_channels, affine=False),
        ).to(device)
        decoder = Decoder(info.shape, latent_channels, width).to(device)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=_RATE)
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for chosen in torch.split(torch.randperm(len(images), generator=order), _BATCH):
            batch = images[chosen.to(images.device)]
            optimizer.zero_grad()
            torch.autograd.backward(F.mse_loss(decoder(encoder(batch)), batch))
            optimizer.step()
    latent_shape = (latent_channels, *latent_sides(info.shape))
    return Generator(decoder.cpu().eval(), latent_shape, "autoencoder", info.name, learned)
