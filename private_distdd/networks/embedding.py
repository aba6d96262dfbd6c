"""Embeddings of examples by random networks, named by public seeds: what distribution matching compares.

One network embeds an example x as (cos W e, sin W e) / sqrt(m): e is what the network hands to its last layer for x (an
image is moved and pooled before, a row of a table is not), scaled to norm 1, and W holds m Gaussian frequencies.  The
mean over a class is then a sketch of the class's density under a Gaussian kernel between such e (Rahimi and Recht
2007), not only of their mean, and no part of its norm 1 is spent on what all examples have in common.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from private_distdd.data.form import Shape
from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError, ModelError
from private_distdd.limits import Cost
from private_distdd.networks.micro_batch import MICRO_BATCH
from private_distdd.networks.movement import moved, random_movement
from private_distdd.networks.spec import ModelSpec, require_seeds
from private_distdd.networks.state import load_state
from private_distdd.validate import require_count, require_number

_TINY = 1e-12
_LONGEST = 1 << 20  # values in a row: 64 rows and their lattice points take 1 GiB


@dataclass(frozen=True)
class EmbeddingSpec:
    """All that defines the embeddings of one query: public, JSON-able.

    Args:
        model: the registered network; its last layer must be an `nn.Linear` of an `nn.Sequential`, and is left out.
        seeds: of the networks, one each, 1 ... 4,096 of them; of their frequencies and movements too.
        pool: images are averaged over pool x pool pixels first, >= 1; divides height and width.  1 for tables.
        bandwidth: of the Gaussian kernel between features of norm 1, in (0.001, 1000).
        frequencies: m, cosines and sines of each network, >= 1; a row has at most 2^20 values.
        augment: move the images: each network sees all of them under one rotation, scaling and shift of its own.  False
            for tables.

    Raises:
        ConfigurationError: a number is outside its range.
        ModelError: the record of the model is malformed.
    """

    model: ModelSpec
    seeds: tuple[int, ...]
    pool: int
    bandwidth: float
    frequencies: int
    augment: bool

    def __post_init__(self) -> None:
        require_seeds(self.seeds)
        require_count("pool", self.pool, "1 embeds images as they are.")
        require_count("frequencies", self.frequencies, "256 is usual.")
        require_number("bandwidth", self.bandwidth, 1e-3, 1e3, "0.001 < bandwidth < 1000", "0.5 is usual.")
        if self.dimension > _LONGEST:
            raise ConfigurationError(
                f"{len(self.seeds)} networks of {self.frequencies} frequencies: rows of {self.dimension}",
                f"rows of at most {_LONGEST} values",
                "Take fewer of either.",
            )

    def to_json(self) -> dict[str, Any]:
        """A JSON object; `from_json` is its inverse."""
        return {
            "model": self.model.to_json(),
            "seeds": list(self.seeds),
            "pool": self.pool,
            "bandwidth": self.bandwidth,
            "frequencies": self.frequencies,
            "augment": self.augment,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> EmbeddingSpec:
        """The spec that `to_json` wrote.

        Raises:
            ModelError, ConfigurationError: the record is malformed.
        """
        names = {"model", "seeds", "pool", "bandwidth", "frequencies", "augment"}
        if (
            not isinstance(record, Mapping)
            or set(record) != names
            or not isinstance(record["seeds"], list | tuple)
            or type(record["augment"]) is not bool
        ):
            raise ModelError(f"arguments {record!r}", f"the fields {sorted(names)}", "Correct them.")
        model = ModelSpec.from_json(record["model"])
        own = {name: record[name] for name in ("pool", "bandwidth", "frequencies", "augment")}
        return cls(model, tuple(record["seeds"]), **own)

    def validate(self, info: DatasetInfo) -> None:
        """Refuse what cannot embed such examples, or would break assumption A2.

        Raises:
            ModelError: pool does not divide height and width, the network is refused by `validate_model`, or it does
                not end in a linear layer.
            ConfigurationError: rows of a table are to be pooled or moved.
        """
        self.model.validate(self.seen(info), info.num_classes)
        Embedding(self, self.seeds[0], info, "cpu")

    def cost(self, info: DatasetInfo) -> Cost:
        """What the networks take, all of them at once, and a micro-batch of examples in one of them; nothing is made.

        Raises:
            ModelError, ConfigurationError: as `validate`.
        """
        size = self.model.size(self.seen(info), info.num_classes)
        projection = size.features * self.frequencies
        networks = 4 * len(self.seeds) * (size.parameters + projection)
        batch = 16 * MICRO_BATCH * (size.activations + math.prod(info.shape))
        return Cost(networks + batch, len(self.seeds) * (size.work + 2 * projection))

    def seen(self, info: DatasetInfo) -> Shape:
        """The shape of what the networks see.

        Raises:
            ModelError: pool does not divide height and width.
            ConfigurationError: rows of a table are to be pooled or moved.
        """
        if self.pool > 1:
            info.form.require_spatial(f"pool = {self.pool}", "1")
        if self.augment:
            info.form.require_spatial("augment = True", "False")
        if not info.form.spatial:
            return info.shape
        channels, height, width = info.shape
        if height % self.pool or width % self.pool:
            raise ModelError(
                f"pool = {self.pool} for images of {height} x {width}", "a divisor of both", "Choose another one."
            )
        return channels, height // self.pool, width // self.pool

    @property
    def dimension(self) -> int:
        """Length of one example's row: 2 m a network, and one coordinate that counts."""
        return 2 * self.frequencies * len(self.seeds) + 1


class Embedding:
    """One network's embedding, float32 [n, *shape] -> float32 [n, 2 m], rows of norm 1; differentiable.

    Args:
        spec: see `EmbeddingSpec`.
        seed: one of `spec.seeds`.
        info: public shape and normalisation.
        device: where it is computed.
        state: the network's weights, as its `state_dict()` names them; by default those that `seed` draws.

    Raises:
        ModelError: the network cannot be built for what it is to see, does not end in a linear layer, or the state does
            not fit.
        ConfigurationError: see `EmbeddingSpec.seen`.
    """

    def __init__(
        self,
        spec: EmbeddingSpec,
        seed: int,
        info: DatasetInfo,
        device: str,
        state: Mapping[str, Tensor] | None = None,
    ) -> None:
        network = spec.model.build(spec.seen(info), info.num_classes, seed)
        if type(network) is not nn.Sequential or not isinstance(network[-1], nn.Linear):
            instead = "'convnet'" if info.form.spatial else "'mlp'"
            raise ModelError(
                f"the embedding of {spec.model.name!r}", "an nn.Sequential that ends in nn.Linear", f"Take {instead}."
            )
        if state is not None:
            load_state(network, state)
        self._network = network[:-1].to(device).requires_grad_(False)
        rng = np.random.default_rng([seed, 1])
        shape = (network[-1].in_features, spec.frequencies)
        self._frequencies = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)).to(device) / spec.bandwidth
        self._movement = random_movement(rng).to(device) if spec.augment else None
        self._black = None if info.bounds is None else info.bounds[0].to(device)
        self._pool = spec.pool if info.form.spatial else None

    def seen(self, examples: Tensor) -> Tensor:
        """What the network sees of examples, float32 [n, *shape]: moved and pooled."""
        if self._movement is not None and self._black is not None:
            examples = moved(examples, self._movement, self._black)
        return examples if self._pool is None else F.avg_pool2d(examples, self._pool)

    def __call__(self, examples: Tensor) -> Tensor:
        """float32 [n, *shape] -> float32 [n, 2 m]."""
        # Huge values overflow: such features count as 0, and the row still has norm 1.
        features = self._network(self.seen(examples)).flatten(1).nan_to_num(0.0, 0.0, 0.0)
        angles = (features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + _TINY)) @ self._frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=1) / math.sqrt(angles.shape[1])
