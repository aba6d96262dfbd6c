"""What a generator is: a network from latents to images, with the hash of its weights and what they have seen."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from private_distdd.data.info import DatasetInfo
from private_distdd.encoding import sha256
from private_distdd.errors import ConfigurationError, ModelError
from private_distdd.networks.state import load_state
from private_distdd.storage import pack
from private_distdd.validate import is_whole, require_flag

NOTHING = "nothing"


@dataclass(frozen=True, eq=False)
class Generator:
    """A network that makes images out of latents: a prior on what S looks like.

    It must have seen no private example: nobody can check that, so the card says what its maker says of it.

    Args:
        network: float32 latents [n, *latent_shape] to images [n, C, H, W] with pixels in [0, 1].  Of a larger model,
            the part behind the layer whose outputs shall be changed.  It is put into evaluation mode; its weights are
            never changed: whoever learns them works on a copy.
        latent_shape: of one image's latents; spatial ones, (channels, rows, columns), keep more of an image's place.
        name: for the card.
        seen: what data its weights were trained on, in words: "nothing" for random ones.
        learned: shall its weights be changed along with the latents (a deep image prior)?

    Raises:
        ConfigurationError: an argument is not as above.

    Source: Jia et al. 2023 (FedDGM), section 3.3; with learned weights Ulyanov, Vedaldi and Lempitsky 2018.
    """

    network: nn.Module
    latent_shape: tuple[int, ...]
    name: str
    seen: str
    learned: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.network, nn.Module):
            raise ConfigurationError(f"a generator of type {type(self.network).__name__}", "an nn.Module", "Pass one.")
        shape = self.latent_shape
        if not isinstance(shape, list | tuple) or not shape or not all(is_whole(size) and size > 0 for size in shape):
            raise ConfigurationError(f"latent_shape = {shape!r}", "whole numbers of at least 1", "Give one image's.")
        object.__setattr__(self, "latent_shape", tuple(shape))
        for name in ("name", "seen"):
            text = getattr(self, name)
            if not isinstance(text, str) or not 0 < len(text) <= 256:
                raise ConfigurationError(f"{name} = {text!r}", "1 to 256 characters", "The card will show it.")
        require_flag("learned", self.learned)

    @property
    def weights(self) -> str:
        """SHA-256 of the weights and buffers, in hexadecimal: as they are handed over, before any is learned."""
        return sha256(pack({}, self.network.state_dict()))

    def record(self) -> dict[str, Any]:
        """What cards and checkpoints say of it."""
        latents = {"latent_shape": list(self.latent_shape), "learned": self.learned}
        return {"name": self.name, "seen": self.seen, "weights": self.weights, **latents}

    def require_images(self, info: DatasetInfo) -> None:
        """Try it once on zeros.

        Raises:
            ModelError: it does not make such images.
        """
        info.form.require_spatial(f"generator = {self.name!r}", "'pixels', which takes rows as they are")
        self.network.eval()
        try:
            with torch.no_grad():
                device = next((tensor.device for tensor in self.network.state_dict().values()), torch.device("cpu"))
                found = self.network(torch.zeros(2, *self.latent_shape, device=device))
        except Exception as error:  # foreign code: whatever it raises belongs into the sentence
            raise ModelError(
                f"the generator {self.name!r} fails on latents {[2, *self.latent_shape]}: {error}",
                "latents [n, *latent_shape] to images",
                "Check latent_shape.",
            ) from error
        shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        if shape != (2, *info.shape):
            raise ModelError(
                f"the generator {self.name!r} makes {shape} of two latents",
                f"{(2, *info.shape)}",
                "Take one for these images, or put nn.Upsample behind it.",
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights to one safetensors file; `loaded` reads them."""
        save_file({name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}, Path(path))

    @classmethod
    def loaded(
        cls,
        network: nn.Module,
        checkpoint: str | os.PathLike[str],
        *,
        latent_shape: tuple[int, ...],
        name: str,
        seen: str,
        learned: bool = False,
    ) -> Generator:
        """A network of your own with weights from a safetensors file, which it takes over.

        Args:
            network: its architecture; the weights are put into it.
            checkpoint: a safetensors file of all its weights and buffers by name.
            latent_shape, name, seen, learned: see `Generator`.

        Raises:
            ModelError: the file cannot be read, or holds other weights than the network's.
            ConfigurationError: as `Generator`.
        """
        try:
            state = load_file(Path(checkpoint))
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"{os.fspath(checkpoint)!r}: {error}", "a readable safetensors file", "Nothing pickled is read."
            ) from error
        load_state(network, state)
        return cls(network, latent_shape, name, seen, learned)
