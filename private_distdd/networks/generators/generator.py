"""What a generator is: a network from latents to images, with the hash of its weights and what they have seen."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

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
        network: float32 latents [n, *latent_shape] to images [n, C, H, W] with pixels in [0, 1].  It is put into
            evaluation mode; its weights are never changed: whoever learns them works on a copy.
        latent_shape: of one image's latents; spatial ones, (channels, rows, columns), keep more of an image's place.
        name: for the card.
        seen: what data its weights were trained on, in words: "nothing" for random ones.
        learned: shall its weights be changed along with the latents (a deep image prior)?
        layer: one of the network's modules, by its name: what it makes of the latents, one tensor [n, ...], is then
            changed beside them ("F-space"), and the rest of the network goes on with that.  Where no way leads around
            the layer, latents decide no more than where it starts.

    Raises:
        ConfigurationError: an argument is not as above.

    Source: Jia et al. 2023 (FedDGM), section 3.3; with learned weights Ulyanov, Vedaldi and Lempitsky 2018.
    """

    network: nn.Module
    latent_shape: tuple[int, ...]
    name: str
    seen: str
    learned: bool = False
    layer: str | None = None

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
        layers = [name for name, _ in self.network.named_modules() if name]
        if self.layer is not None and self.layer not in layers:
            some = ", ".join(map(repr, layers[:20])) or "none, for the network has no parts"
            raise ConfigurationError(
                f"layer = {self.layer!r}", f"a module of the network: {some}", "Name one of these."
            )

    def images(self, network: nn.Module, latents: Tensor, at_layer: Tensor | None = None) -> Tensor:
        """What a copy of the network makes of latents; with `at_layer` in place of what its layer makes of them."""
        if at_layer is None or self.layer is None:
            found: Tensor = network(latents)
            return found
        hook = network.get_submodule(self.layer).register_forward_hook(lambda module, given, made: at_layer)
        try:
            found = network(latents)
        finally:
            hook.remove()
        return found

    def at_layer(self, network: nn.Module, latents: Tensor) -> Tensor:
        """What the layer of a copy of the network makes of latents, [n, ...].

        Raises:
            ModelError: it is not used exactly once, or makes no tensor of n rows.
        """
        made: list[Any] = []
        with (
            torch.no_grad(),
            network.get_submodule(str(self.layer)).register_forward_hook(lambda module, given, own: made.append(own)),
        ):
            network(latents)
        if len(made) != 1 or not isinstance(made[0], Tensor) or len(made[0]) != len(latents):
            raise ModelError(
                f"layer = {self.layer!r}, which gives {len(made)} results for {len(latents)} latents",
                "a module that is used once and gives one tensor, a row for each",
                "Name another layer.",
            )
        return made[0].detach().clone()

    @property
    def weights(self) -> str:
        """SHA-256 of the weights and buffers, in hexadecimal: as they are handed over, before any is learned."""
        return sha256(pack({}, self.network.state_dict()))

    def record(self) -> dict[str, Any]:
        """What cards and checkpoints say of it."""
        latents = {"latent_shape": list(self.latent_shape), "learned": self.learned}
        layer = {} if self.layer is None else {"layer": self.layer}
        return {"name": self.name, "seen": self.seen, "weights": self.weights, **latents, **layer}

    def require_images(self, info: DatasetInfo) -> None:
        """Try it once on zeros.

        Raises:
            ModelError: it does not make such images, or its layer cannot be changed.
        """
        info.form.require_spatial(f"parametrisation = {self.name!r}", "'pixels', which takes rows as they are")
        self.network.eval()
        try:
            with torch.no_grad():
                device = next((tensor.device for tensor in self.network.state_dict().values()), torch.device("cpu"))
                latents = torch.zeros(2, *self.latent_shape, device=device)
                found = self.network(latents)
                if self.layer is not None:
                    self.at_layer(self.network, latents)
        except ModelError:
            raise
        except Exception as error:  # foreign code: whatever it raises belongs into the sentence
            raise ModelError(
                f"the generator {self.name!r} fails on latents {[2, *self.latent_shape]}: {error}",
                "latents [n, *latent_shape] to images",
                "Check latent_shape.",
            ) from error
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
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
        layer: str | None = None,
    ) -> Generator:
        """A network of your own with weights from a safetensors file, which it takes over.

        Args:
            network: its architecture; the weights are put into it.
            checkpoint: a safetensors file of all its weights and buffers by name.
            latent_shape, name, seen, learned, layer: see `Generator`.

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
        return cls(network, latent_shape, name, seen, learned, layer)
