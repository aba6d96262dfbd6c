"""S as a function of latents: what is changed, in place of pixels, when S is matched."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from private_distdd.data.info import DatasetInfo
from private_distdd.networks.generators.generator import Generator


class Latents:
    """Latents of `count` examples, which start from standard normal noise, and what makes the examples of them.

    Args:
        generator: makes images of them; None: the latents are the examples, on the normalised scale.
        info: public shape and normalisation.
        count: examples of S.
        rng: public; draws the start.
        device: where they are.

    Attributes:
        latents: float32 [count, *latent_shape], a leaf.
        weights: the generator's that are learned, by a copy of its own.
    """

    def __init__(
        self, generator: Generator | None, info: DatasetInfo, count: int, rng: np.random.Generator, device: str
    ) -> None:
        shape = info.shape if generator is None else generator.latent_shape
        start = torch.from_numpy(rng.standard_normal((count, *shape), dtype=np.float32))
        self.latents = start.to(device).requires_grad_()
        self._network: nn.Module | None = None
        self.weights: list[nn.Parameter] = []
        if generator is not None:
            bounds = info.bounds
            assert bounds is not None  # noqa: S101 - for the type checker: images have bounds
            self._black, self._white = (bound.to(device) for bound in bounds)
            self._network = copy.deepcopy(generator.network).to(device).eval().requires_grad_(generator.learned)
            self.weights = list(self._network.parameters()) if generator.learned else []

    def examples(self) -> Tensor:
        """S as it is, float32 [count, *shape], normalised; differentiable in the latents and the learned weights."""
        if self._network is None:
            return self.latents
        pixels: Tensor = self._network(self.latents)
        return torch.lerp(self._black, self._white, pixels)
