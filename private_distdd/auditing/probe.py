"""What an audited client is asked: any registered question, so that every method's messages are attacked alike."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError
from private_distdd.networks.embedding import EmbeddingSpec
from private_distdd.networks.micro_batch import padded
from private_distdd.networks.spec import ModelSpec
from private_distdd.questions.register import private_question
from private_distdd.wire.query import Query
from private_distdd.wire.run import Run


@dataclass(frozen=True, eq=False)
class Probe:
    """A question with its arguments and tensors: a query, but for the run.

    Args:
        question, arguments, tensors: as in `Query`.
    """

    question: str
    arguments: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def query(self, run: Run, server_round: int) -> Query:
        """The same question in one round of a run."""
        return Query(run.run_id, server_round, self.question, self.arguments, self.tensors, run.plan)

    def rows(self, images: Tensor, labels: Tensor, info: DatasetInfo) -> tuple[Tensor, Tensor]:
        """Examples' rows before clipping, float64 [n, dimension], and the group each is summed into, int64 [n].

        Args:
            images: float32 [n, C, H, W], normalised; 64 of them at most.
            labels: their classes, int64 [n].
            info: public constants.
        """
        question = private_question(self.question, self.arguments, self.tensors, info, "cpu")
        rows = question.rows(*padded(images, labels))
        return rows[: len(labels)].to(torch.float64), question.groups(labels)

    def row(self, image: Tensor, label: int, info: DatasetInfo) -> tuple[Tensor, int]:
        """One example's row before clipping, float64 [dimension], and its group; see `rows`."""
        rows, groups = self.rows(image[None], torch.tensor([label]), info)
        return rows[0], int(groups[0])

    def shape(self, info: DatasetInfo) -> tuple[int, int]:
        """Groups and values a group of its messages."""
        question = private_question(self.question, self.arguments, self.tensors, info, "cpu")
        return question.num_groups, question.dimension

    def blocks(self, info: DatasetInfo) -> Mapping[str, slice]:
        """The parts of a row that mean something of their own, by name: a tensor of the network, or a network, a count.

        Raises:
            ConfigurationError: nobody has said how this question's rows are made up.
        """
        if self.question not in BLOCKS:
            raise ConfigurationError(
                f"the blocks of {self.question!r}", f"one of {sorted(BLOCKS)}", "Add it to question.BLOCKS."
            )
        lengths = BLOCKS[self.question](self.arguments, info)
        ends = itertools.accumulate(lengths.values())
        return {name: slice(end - lengths[name], end) for name, end in zip(lengths, ends, strict=True)}

    def hostile(self) -> Mapping[str, Probe]:
        """This question, and the same with huge and with NaN tensors where it has any."""
        changed = {"honest": 1.0} | ({"huge": 1e15, "NaN": math.nan} if self.tensors else {})
        return {
            name: Probe(self.question, self.arguments, {key: factor * t for key, t in self.tensors.items()})
            for name, factor in changed.items()
        }


def about_gradients(spec: ModelSpec, info: DatasetInfo, granularity: str = "class") -> Probe:
    """DistDD's question: gradients at the weights of seed 0, summed by class, or "joint"."""
    state = spec.build(info.shape, info.num_classes, seed=0).state_dict()
    return Probe("class_gradients", {"model": spec.to_json(), "granularity": granularity}, dict(state))


def about_embeddings(spec: EmbeddingSpec) -> Probe:
    """CollabDM's question: class sums of embeddings."""
    return Probe("class_embeddings", spec.to_json(), {})


def every_question(info: DatasetInfo, width: int = 8) -> Mapping[str, Probe]:
    """One question about each registered question, in each form of its message, by name.

    Args:
        info: of those who are asked.
        width: of the network; the messages are about so many times as long.
    """
    spec = ModelSpec("mlp", {"width": width, "depth": 1})
    return {
        "class gradients": about_gradients(spec, info),
        "joint gradients": about_gradients(spec, info, "joint"),
        "class embeddings": about_embeddings(EmbeddingSpec(spec, (0, 1), 1, 0.5, 42 * width, True)),
    }


def _tensors(arguments: Mapping[str, Any], info: DatasetInfo) -> Mapping[str, int]:
    network = ModelSpec.from_json(arguments["model"]).build(info.shape, info.num_classes, seed=0)
    return {name: tensor.numel() for name, tensor in network.named_parameters() if tensor.requires_grad}


def _networks(arguments: Mapping[str, Any], info: DatasetInfo) -> Mapping[str, int]:
    spec = EmbeddingSpec.from_json(arguments)
    return {**{f"network {i}": 2 * spec.frequencies for i in range(len(spec.seeds))}, "count": 1}


BLOCKS: Mapping[str, Callable[[Mapping[str, Any], DatasetInfo], Mapping[str, int]]] = {
    "class_gradients": _tensors,
    "class_embeddings": _networks,
}
"""From a registered question's arguments to the lengths of its rows' blocks, in order."""
