"""What an audited client is asked: any registered statistic, so that every method's messages are attacked alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from private_distdd.data.datasets import DatasetInfo
from private_distdd.embeddings import EmbeddingSpec
from private_distdd.federation.messages import Query, Run
from private_distdd.federation.statistics import private_statistic
from private_distdd.models import ModelSpec


@dataclass(frozen=True, eq=False)
class Question:
    """A statistic with its arguments and tensors: a query, but for the run.

    Args:
        statistic, arguments, tensors: as in `Query`.
    """

    statistic: str
    arguments: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def query(self, run: Run, server_round: int) -> Query:
        """The same question in one round of a run."""
        return Query(run.run_id, server_round, self.statistic, self.arguments, self.tensors, run.plan)

    def row(self, image: Tensor, label: int, info: DatasetInfo) -> Tensor:
        """One example's row before clipping, float64 [dimension].

        Args:
            image: float32 [C, H, W], normalised.
            label: its class.
            info: public constants.
        """
        statistic = private_statistic(self.statistic, self.arguments, self.tensors, info, "cpu")
        (rows, _), *_ = statistic.rows(image[None], torch.tensor([label]))
        return rows[0].to(torch.float64)

    def hostile(self) -> Mapping[str, Question]:
        """This question, and the same with huge and with NaN tensors where it has any."""
        changed = {"honest": 1.0} | ({"huge": 1e15, "NaN": math.nan} if self.tensors else {})
        return {
            name: Question(self.statistic, self.arguments, {key: factor * t for key, t in self.tensors.items()})
            for name, factor in changed.items()
        }


def about_gradients(spec: ModelSpec, info: DatasetInfo) -> Question:
    """DistDD's question: class gradients at the weights of seed 0."""
    state = spec.build(info.image_shape, info.num_classes, seed=0).state_dict()
    return Question("class_gradients", {"model": spec.to_json(), "granularity": "class"}, dict(state))


def about_embeddings(spec: EmbeddingSpec) -> Question:
    """CollabDM's question: class sums of embeddings."""
    return Question("class_embeddings", spec.to_json(), {})
