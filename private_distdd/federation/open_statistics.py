"""Statistics that exist without privacy only: they have no rows that a mechanism could clip and cover with noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from private_distdd.data.datasets import DatasetInfo
from private_distdd.data.synthetic import mosaic
from private_distdd.embeddings import ClassEmbeddings, EmbeddingSpec, class_means, match_means


class ClassExamples:
    """The registered statistic "class_examples": the images themselves, for a start of S from real ones.

    Args:
        arguments: {"counts": how many examples of each class}.
        tensors: none.
        info: public class list and image shape.
        device: ignored.
    """

    def __init__(
        self, arguments: Mapping[str, Any], tensors: Mapping[str, Tensor], info: DatasetInfo, device: str
    ) -> None:
        self.num_groups = int(sum(arguments["counts"]))
        self.dimension = int(torch.Size(info.image_shape).numel())

    def plain(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The drawn images, one a group, in the order of their classes."""
        return images.flatten(1).cpu(), torch.ones(len(images), dtype=torch.int64)


class LocalDistillations:
    """The registered statistic "class_distillations": images that a client distilled from its own data by itself.

    They start as mosaics of its real images, and match its own mean embeddings: the local step of Holland et al. 2024.
    Only without privacy: the mechanism never saw what they are made of.

    Args:
        arguments: {"embedding": an `EmbeddingSpec` as JSON, "counts": how many images of each class, "partition",
            "steps", "rate", "smoothness": as for `match_means`, "seed": public, of start and order}.
        tensors: none.
        info: public class list, image shape and normalisation.
        device: where it is computed.
    """

    def __init__(
        self, arguments: Mapping[str, Any], tensors: Mapping[str, Tensor], info: DatasetInfo, device: str
    ) -> None:
        self._spec = EmbeddingSpec.from_json(arguments["embedding"])
        self._arguments, self._info, self._device = arguments, info, device
        self.num_groups = int(sum(arguments["counts"]))
        self.dimension = int(torch.Size(info.image_shape).numel())

    def plain(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The distilled images, one a group, in the order of their classes."""
        asked, classes = self._arguments, self._info.num_classes
        rng, parts = np.random.default_rng([asked["seed"], len(asked["counts"])]), asked["partition"] ** 2
        chosen = [
            rng.choice((labels == c).nonzero().squeeze(1).cpu().numpy(), count * parts, replace=True)
            for c, count in enumerate(asked["counts"])
            if count
        ]
        start = mosaic(images[torch.from_numpy(np.concatenate([*chosen, np.empty(0, np.int64)]))], asked["partition"])
        targets = torch.arange(classes).repeat_interleave(torch.tensor(asked["counts"]))
        embeddings = ClassEmbeddings(self._spec, self._info, self._device)
        sums = embeddings.class_sums(images, labels, classes).to(torch.float32)
        match_means(
            start,
            targets.to(start.device),
            embeddings.networks,
            class_means(*embeddings.read(sums)),
            self._info,
            partition=asked["partition"],
            steps=asked["steps"],
            rate=asked["rate"],
            smoothness=asked["smoothness"],
            rng=rng,
        )
        return start.flatten(1).cpu(), torch.ones(len(start), dtype=torch.int64)


class ClassCounts:
    """The registered statistic "class_counts": how many examples of each class; only without privacy.

    With it the server draws batches over clients as if all data were in one place.
    """

    dimension = 0

    def __init__(
        self, arguments: Mapping[str, Any], tensors: Mapping[str, Tensor], info: DatasetInfo, device: str
    ) -> None:
        self.num_groups = info.num_classes

    def plain(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """No values, and the counts."""
        return torch.zeros(self.num_groups, 0), torch.bincount(labels, minlength=self.num_groups).cpu()
