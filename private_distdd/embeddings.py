"""Embeddings of images by random networks, named by public seeds: what distribution matching compares.

One network embeds an image x as (cos W e, sin W e) / sqrt(m): e is what the network hands to its last layer for the
moved and pooled image, scaled to norm 1, and W holds m Gaussian frequencies.  The mean over a class is then a sketch of
the class's density under a Gaussian kernel between such e (Rahimi and Recht 2007), not only of their mean, and no part
of its norm 1 is spent on what all images have in common.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from private_distdd.data.datasets import DatasetInfo
from private_distdd.data.synthetic import expand
from private_distdd.errors import ConfigurationError, ModelError
from private_distdd.gradients import MICRO_BATCH, deterministic
from private_distdd.limits import NETWORKS, Cost
from private_distdd.models import ImageShape, ModelSpec
from private_distdd.privacy.mechanism import Rows
from private_distdd.privacy.spec import require_count, require_number

_TINY = 1e-12
_COUNT_WEIGHT = 0.2  # of an example's norm 1, what counts it: 4 % of the energy, and a count good to 5 sigma sqrt(n)
_LONGEST = 1 << 20  # values in a row: 64 rows and their lattice points take 1 GiB
_ROTATION, _SCALE, _SHIFT = math.radians(15), 1.2, 0.125  # at most: radians, factor, share of the side


@dataclass(frozen=True)
class EmbeddingSpec:
    """All that defines the embeddings of one query: public, JSON-able.

    Args:
        model: the registered network; its last layer must be an `nn.Linear` of an `nn.Sequential`, and is left out.
        seeds: of the networks, one each, 1 ... 4,096 of them; of their frequencies and movements too.
        pool: images are averaged over pool x pool pixels first, >= 1; divides height and width.
        bandwidth: of the Gaussian kernel between features of norm 1, in (0.001, 1000).
        frequencies: m, cosines and sines of each network, >= 1; a row has at most 2^20 values.
        augment: move the images: each network sees all of them under one rotation, scaling and shift of its own.

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
        require_count("networks", len(self.seeds), "32 is usual.", at_most=NETWORKS)
        for seed in self.seeds:
            require_count("seed", seed, "Any whole number from 0 on.", at_least=0)
            if seed >= 1 << 63:  # torch's generator takes no larger one
                raise ConfigurationError(f"seed = {seed}", "a whole number below 2^63", "Choose a smaller one.")
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
        """Refuse what cannot embed such images, or would break assumption A2.

        Raises:
            ModelError: pool does not divide height and width, the network is refused by `models.validate_model`, or it
                does not end in a linear layer.
        """
        self.model.validate(self._pooled(info), info.num_classes)
        Embedding(self, self.seeds[0], info, "cpu")

    def cost(self, info: DatasetInfo) -> Cost:
        """What the networks take, all of them at once, and a micro-batch of images in one of them; nothing is made.

        Raises:
            ModelError: as `validate`.
        """
        size = self.model.size(self._pooled(info), info.num_classes)
        projection = size.features * self.frequencies
        networks = 4 * len(self.seeds) * (size.parameters + projection)
        batch = 16 * MICRO_BATCH * (size.activations + math.prod(info.image_shape))
        return Cost(networks + batch, len(self.seeds) * (size.work + 2 * projection))

    def _pooled(self, info: DatasetInfo) -> ImageShape:
        """The shape of what the networks see."""
        channels, height, width = info.image_shape
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
    """One network's embedding, float32 [n, C, H, W] -> float32 [n, 2 m], rows of norm 1; differentiable.

    Args:
        spec: see `EmbeddingSpec`.
        seed: one of `spec.seeds`.
        info: public image shape and normalisation.
        device: where it is computed.

    Raises:
        ModelError: the network cannot be built for the pooled images, or does not end in a linear layer.
    """

    def __init__(self, spec: EmbeddingSpec, seed: int, info: DatasetInfo, device: str) -> None:
        channels, height, width = info.image_shape
        network = spec.model.build((channels, height // spec.pool, width // spec.pool), info.num_classes, seed)
        if type(network) is not nn.Sequential or not isinstance(network[-1], nn.Linear):
            raise ModelError(
                f"the embedding of {spec.model.name!r}", "an nn.Sequential that ends in nn.Linear", "Take 'convnet'."
            )
        self._network = network[:-1].to(device).requires_grad_(False)
        rng = np.random.default_rng([seed, 1])
        shape = (network[-1].in_features, spec.frequencies)
        self._frequencies = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)).to(device) / spec.bandwidth
        self._movement = _movement(rng).to(device) if spec.augment else None
        self._black = info.normalise(torch.zeros(channels, 1, 1)).to(device)
        self._pool = spec.pool

    def __call__(self, images: Tensor) -> Tensor:
        """float32 [n, C, H, W] -> float32 [n, 2 m]."""
        if self._movement is not None:
            grid = F.affine_grid(self._movement.expand(len(images), 2, 3), list(images.shape), align_corners=False)
            images = F.grid_sample(images - self._black, grid, align_corners=False) + self._black
        # Huge pixels overflow: such features count as 0, and the row still has norm 1.
        features = self._network(F.avg_pool2d(images, self._pool)).flatten(1).nan_to_num(0.0, 0.0, 0.0)
        angles = (features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + _TINY)) @ self._frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=1) / math.sqrt(angles.shape[1])


def _movement(rng: np.random.Generator) -> Tensor:
    """A random rotation, scaling and shift, float32 [2, 3]."""
    angle, tall, wide, down, right = rng.uniform(-1, 1, 5)
    cos, sin = math.cos(_ROTATION * angle), math.sin(_ROTATION * angle)
    rows, columns = _SCALE**tall, _SCALE**wide
    # The sampling grid runs from -1 to 1: a share of the side is twice that.
    matrix = [[columns * cos, -columns * sin, 2 * _SHIFT * right], [rows * sin, rows * cos, 2 * _SHIFT * down]]
    return torch.tensor(matrix, dtype=torch.float32)


class ClassEmbeddings:
    """Rows of all networks of a query, one after another, and how their sums by class are read again.

    A row is sqrt(0.96) times the networks' embeddings, each over sqrt(K), followed by 0.2: of norm 1 for every image.

    Args:
        spec: see `EmbeddingSpec`.
        info: public image shape and normalisation.
        device: where rows are computed.
    """

    def __init__(self, spec: EmbeddingSpec, info: DatasetInfo, device: str) -> None:
        self.spec = spec
        self.networks = [Embedding(spec, seed, info, device) for seed in spec.seeds]

    def rows(self, images: Tensor) -> Tensor:
        """float32 [n, C, H, W] -> float32 [n, dimension], rows of norm 1 up to rounding."""
        scale = math.sqrt((1 - _COUNT_WEIGHT**2) / len(self.networks))
        with torch.inference_mode(), deterministic():
            parts = [network(images) * scale for network in self.networks]
        return torch.cat([*parts, images.new_full((len(images), 1), _COUNT_WEIGHT)], dim=1)

    def padded_rows(self, images: Tensor, labels: Tensor) -> Iterator[Rows]:
        """`rows` in micro-batches of one size, with labels: an example's bits do not depend on how many ride along.

        Images beyond the labels are padding; without any label one micro-batch of padding is run all the same.
        """
        for part, targets in zip(torch.split(images, MICRO_BATCH), torch.split(labels, MICRO_BATCH), strict=True):
            batch = part.new_zeros((MICRO_BATCH, *part.shape[1:]))
            batch[: len(part)] = part
            yield self.rows(batch), targets

    def read(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of rows, float [groups, dimension], as sums of embeddings [K, groups, 2 m] and as counts [groups]."""
        embedded = sums[:, :-1].reshape(len(sums), len(self.networks), -1).transpose(0, 1)
        scale = math.sqrt((1 - _COUNT_WEIGHT**2) / len(self.networks))
        return embedded / scale, sums[:, -1] / _COUNT_WEIGHT

    def class_sums(self, images: Tensor, labels: Tensor, num_classes: int) -> Tensor:
        """Plain sums of rows by class, float64 [num_classes, dimension]: without privacy."""
        sums = images.new_zeros((num_classes, self.spec.dimension), dtype=torch.float64)
        for rows, classes in self.padded_rows(images, labels):
            sums.index_add_(0, classes, rows[: len(classes)].to(torch.float64))
        return sums


def class_means(sums: Tensor, counts: Tensor) -> Tensor:
    """Mean embeddings, float [K, classes, 2 m], of their sums and counts, noisy or not.

    A noisy count may be anything; below a hundredth of the mean class it says nothing but "small".
    """
    least = counts.abs().mean().clamp(min=_TINY) / 100
    return sums / counts.maximum(least)[:, None]


def match_means(
    images: Tensor,
    labels: Tensor,
    networks: Sequence[Embedding],
    means: Tensor,
    info: DatasetInfo,
    *,
    partition: int,
    steps: int,
    rate: float,
    smoothness: float,
    rng: np.random.Generator,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Change synthetic images, in place, so that their mean embeddings match: sum over classes of squared distances.

    Each step is one of Adam at one network, every network once before any is used again; the rate falls along half a
    cosine to 0, and pixels stay between black and white.

    Args:
        images: float32 [n, C, H, W].
        labels: int64 [n], on the same device; a class without images is left out.
        networks: K of them.
        means: float [K, classes, 2 m], what is to be matched.
        info: public image shape and normalisation.
        partition: see `expand`.
        steps: of Adam, >= 1.
        rate: its first, > 0.
        smoothness: weight of the total variation of S, >= 0: without it S takes on what is noise in the means.
        rng: of the networks' order.
        report: called after each step with its number, from 1, and its loss.

    Source: Zhao and Bilen 2023, eq. 5, with these embeddings.
    """
    if not len(images):  # a client whose share of S is none; torch has no grid for it
        return
    shape = (info.image_shape[0], 1, 1)
    black, white = (info.normalise(torch.full(shape, level)).to(images.device) for level in (0.0, 1.0))
    variable = images.clamp_(black, white).clone().requires_grad_(True)
    optimizer = torch.optim.Adam([variable], lr=rate, betas=(0.9, 0.99))
    parts = labels.repeat_interleave(partition**2)
    members = (parts == torch.arange(means.shape[1], device=parts.device)[:, None]).to(images.dtype)
    present = members.sum(dim=1) > 0
    members = members[present] / members[present].sum(dim=1, keepdim=True)
    order: list[int] = []
    for step in range(steps):
        order = order or rng.permutation(len(networks)).tolist()
        network = order.pop()
        examples = expand(variable, partition)
        loss = (members @ networks[network](examples) - means[network][present]).square().sum()
        if smoothness:
            loss = loss + smoothness * len(members) * _total_variation(examples)
        (variable.grad,) = torch.autograd.grad(loss, [variable])
        optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.step()
        with torch.no_grad():
            images.copy_(variable.clamp_(black, white))
        report(step + 1, float(loss.detach()))


def _total_variation(images: Tensor) -> Tensor:
    """The mean size of the steps from a pixel to the one below it and to the one on its right."""
    down, right = images.diff(dim=2).abs().sum(), images.diff(dim=3).abs().sum()
    total: Tensor = (down + right) / images.numel()
    return total
