"""The question "class_embeddings": sums over each class of embeddings by networks that are public."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from private_distdd.data.info import DatasetInfo
from private_distdd.limits import Cost
from private_distdd.networks.embedding import Embedding, EmbeddingSpec
from private_distdd.networks.micro_batch import deterministic, micro_batches
from private_distdd.networks.spec import ModelSpec
from private_distdd.networks.zeros import fill_zeros
from private_distdd.questions.arguments import message_memory, states_of, weights_of
from private_distdd.questions.audited import Asked, SpecificAttack
from private_distdd.questions.question import MeasuredOnce
from private_distdd.questions.register import register_question

_COUNT_WEIGHT = 0.2  # of an example's norm 1, what counts it: 4 % of the energy, and a count good to 5 sigma sqrt(n)


class ClassEmbeddings:
    """Rows of all networks of a query, one after another, and how their sums by class are read again.

    A row is sqrt(0.96) times the networks' embeddings, each over sqrt(K), followed by 0.2: of norm 1 for every example.

    Args:
        spec: see `EmbeddingSpec`.
        info: public shape and normalisation.
        device: where rows are computed.
        states: the networks' weights; by default those that their seeds draw.

    Raises:
        ModelError, ConfigurationError: see `Embedding`.
    """

    def __init__(
        self, spec: EmbeddingSpec, info: DatasetInfo, device: str, states: Sequence[Mapping[str, Tensor]] | None = None
    ) -> None:
        self.spec = spec
        self.networks = [
            Embedding(spec, seed, info, device, None if states is None else states[k])
            for k, seed in enumerate(spec.seeds)
        ]

    def rows(self, images: Tensor) -> Tensor:
        """float32 [n, *shape] -> float32 [n, dimension], rows of norm 1 up to rounding."""
        scale = math.sqrt((1 - _COUNT_WEIGHT**2) / len(self.networks))
        with torch.inference_mode(), deterministic():
            parts = [network(images) * scale for network in self.networks]
        return torch.cat([*parts, images.new_full((len(images), 1), _COUNT_WEIGHT)], dim=1)

    def read(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        """See `read`."""
        return read(sums, len(self.networks))

    def class_sums(self, images: Tensor, labels: Tensor, num_classes: int) -> Tensor:
        """Plain sums of rows by class, float64 [num_classes, dimension]: without privacy."""
        sums = images.new_zeros((num_classes, self.spec.dimension), dtype=torch.float64)
        for part, classes, count in micro_batches(images, labels):
            sums.index_add_(0, classes[:count], self.rows(part)[:count].to(torch.float64))
        return sums


def read(sums: Tensor, networks: int) -> tuple[Tensor, Tensor]:
    """Sums of rows, float [groups, dimension], as sums of embeddings [networks, groups, 2 m] and as counts [groups]."""
    embedded = sums[:, :-1].reshape(len(sums), networks, -1).transpose(0, 1)
    return embedded / math.sqrt((1 - _COUNT_WEIGHT**2) / networks), sums[:, -1] / _COUNT_WEIGHT


@register_question("class_embeddings")
class EmbeddingSums(MeasuredOnce):
    """The question "class_embeddings": embeddings by networks under public seeds or with given weights, by class.

    An example's row holds its embeddings by all networks and has norm 1, so C = 1 clips nothing.

    Args:
        arguments: an `EmbeddingSpec` as JSON.
        tensors: none, where seeds define the networks; else all networks' weights, as `weights_of` names them.
        info: public class list, shape and normalisation.
        device: where the embeddings are computed.

    Raises:
        ModelError, ConfigurationError: the arguments are malformed, or the network breaks an assumption of the theorem.
    """

    attacks: ClassVar[frozenset[SpecificAttack]] = frozenset()

    def __init__(
        self, arguments: Mapping[str, Any], tensors: Mapping[str, Tensor], info: DatasetInfo, device: str
    ) -> None:
        spec = EmbeddingSpec.from_json(arguments)
        spec.validate(info)
        self._spec, self._given = spec, (info, device)
        self._embeddings = ClassEmbeddings(spec, info, device, states_of(tensors, len(spec.seeds)))
        self.num_groups = info.num_classes
        self.dimension = spec.dimension

    @staticmethod
    def cost(arguments: Mapping[str, Any], info: DatasetInfo) -> Cost:
        """What an answer takes at most."""
        spec = EmbeddingSpec.from_json(arguments)
        own = spec.cost(info)
        return Cost(message_memory(info.num_classes, spec.dimension) + own.memory, own.work)

    def public(self) -> EmbeddingSums:
        """One of its networks, at the weights of a public seed and others where these are zero: all have its sizes."""
        one, (info, device) = dataclasses.replace(self._spec, seeds=(0,)), self._given
        network = one.model.build(one.seen(info), info.num_classes, 0)
        fill_zeros(network)
        return EmbeddingSums(one.to_json(), weights_of([network.state_dict()]), info, device)

    def rows(self, images: Tensor, labels: Tensor) -> Tensor:
        """Per-example embeddings, float32 [n, dimension]: what the mechanism clips, sums and covers with noise."""
        return self._embeddings.rows(images)

    def groups(self, labels: Tensor) -> Tensor:
        """The group each example is summed into, int64 [n]: its class."""
        return labels

    def plain(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Plain sums by class, added up in float64, and their counts."""
        sums = self._embeddings.class_sums(images, labels, self.num_groups)
        return sums.to("cpu", torch.float32), torch.bincount(labels, minlength=self.num_groups).cpu()

    @staticmethod
    def examples(info: DatasetInfo, width: int) -> Mapping[str, Asked]:
        """For audits: embeddings by two small networks, under their seeds and with weights sent."""
        network, moved = ModelSpec("mlp", {"width": width, "depth": 1}), len(info.shape) == 3  # a table has no places
        spec = EmbeddingSpec(network, (0, 1), 1, 0.5, 42 * width, moved)
        sent = [network.build(spec.seen(info), info.num_classes, seed).state_dict() for seed in (2, 3)]
        return {
            "class embeddings": (spec.to_json(), {}),
            "class embeddings, weights sent": (spec.to_json(), weights_of(sent)),
        }

    @staticmethod
    def blocks(arguments: Mapping[str, Any], info: DatasetInfo) -> Mapping[str, int]:
        """For audits: a row's parts are the networks' embeddings, and what counts the example."""
        spec = EmbeddingSpec.from_json(arguments)
        return {**{f"network {i}": 2 * spec.frequencies for i in range(len(spec.seeds))}, "count": 1}
