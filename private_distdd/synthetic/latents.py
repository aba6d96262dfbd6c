"""S as a function of latents: what is changed, in place of pixels, when S is matched."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from private_distdd.data.info import DatasetInfo
from private_distdd.networks.generators.generator import Generator


class Latents:
    """Latents of S's examples, and what makes the examples of them.

    Args:
        generator: makes images of them; None: the latents are the examples, on the normalised scale.
        info: public shape and normalisation.
        start: float32 [count, *latent_shape], on the device where all of it shall be; taken over.  Of a generator with
            a `layer`, what it makes of them there is changed as well.

    Attributes:
        latents: what is changed for each example, leaves with `count` rows.
        weights: the generator's that are learned, by a copy of its own.
    """

    def __init__(self, generator: Generator | None, info: DatasetInfo, start: Tensor) -> None:
        device = start.device
        self.latents = [start.requires_grad_()]
        self.weights: list[nn.Parameter] = []
        self._generator, self._network = generator, None
        bounds = info.bounds
        self._bounds = None if bounds is None else (bounds[0].to(device), bounds[1].to(device))
        if generator is not None:
            self._network = copy.deepcopy(generator.network).to(device).eval().requires_grad_(generator.learned)
            self.weights = list(self._network.parameters()) if generator.learned else []
            if generator.layer is not None:
                self.latents.append(generator.at_layer(self._network, start).requires_grad_())

    @classmethod
    def drawn(
        cls, generator: Generator | None, info: DatasetInfo, count: int, rng: np.random.Generator, device: str
    ) -> Latents:
        """Those of `count` examples, from standard normal noise, which `rng` draws and which is public."""
        shape = info.shape if generator is None else generator.latent_shape
        return cls(generator, info, torch.from_numpy(rng.standard_normal((count, *shape), dtype=np.float32)).to(device))

    def examples(self) -> Tensor:
        """S as it is, float32 [count, *shape], normalised; differentiable in the latents and the learned weights."""
        if self._generator is None or self._network is None:
            return self.latents[0]
        pixels = self._generator.images(self._network, *self.latents)
        assert self._bounds is not None  # noqa: S101 - for the type checker: images have bounds
        black, white = self._bounds
        return torch.lerp(black, white, pixels)

    def groups(self, rate: float, generator_rate: float) -> list[dict[str, Any]]:
        """For torch's optimisers: a group of its own for each variable, whose highest rate is also its "most"."""
        rates = [(variable, rate) for variable in self.latents] + [(own, generator_rate) for own in self.weights]
        return [{"params": [variable], "lr": own, "most": own} for variable, own in rates]

    def clamp(self) -> None:
        """Bring latents that are pixels between black and white; values of a table have no bounds."""
        if self._generator is None and self._bounds is not None:
            with torch.no_grad():
                self.latents[0].clamp_(*self._bounds)

    @property
    def variables(self) -> dict[str, Tensor]:
        """All that is changed, by name: what a checkpoint keeps."""
        if self._generator is None:
            return {"images": self.latents[0]}
        named = {f"latents/{k}": value for k, value in enumerate(self.latents)}
        return named | {f"generator/{k}": value for k, value in enumerate(self.weights)}

    def restore(self, kept: Mapping[str, Tensor]) -> None:
        """Take over the values of `variables` of another."""
        with torch.no_grad():
            for name, value in self.variables.items():
                value.copy_(kept[name])
