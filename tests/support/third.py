"""A third method with a question of its own, as a stranger would write them: docs/map.md says what they need.

S is the mean of the clients' noisy sums of pixels, over the rounds; the question measures a row of pixels an example.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from private_distdd.data.info import DatasetInfo
from private_distdd.limits import Cost
from private_distdd.methods.method import Method
from private_distdd.methods.register import register_method
from private_distdd.questions.arguments import message_memory, refuse_tensors, require_fields
from private_distdd.questions.question import MeasuredOnce, Measuring
from private_distdd.questions.register import register_question
from private_distdd.server.layout import Field, Layout, is_between, is_part, prototypes
from private_distdd.server.loop import Course, Kept
from private_distdd.server.reading import Wanted
from private_distdd.server.start import Started
from private_distdd.synthetic.dataset import SyntheticDataset, presentable
from private_distdd.validate import require_count
from private_distdd.wire.message import Message, stack
from private_distdd.wire.query import Query
from private_distdd.wire.run import Run


@register_question("class_pixels")
class ClassPixels(MeasuredOnce):
    """Pixels, summed by class."""

    def __init__(
        self, arguments: Mapping[str, Any], tensors: Mapping[str, Tensor], info: DatasetInfo, device: str
    ) -> None:
        require_fields(arguments, set())
        refuse_tensors(tensors)
        self._given = arguments, tensors, info, device
        self.num_groups, self.dimension = info.num_classes, math.prod(info.shape)

    @staticmethod
    def cost(arguments: Mapping[str, Any], info: DatasetInfo) -> Cost:
        return Cost(message_memory(info.num_classes, math.prod(info.shape)), 0)

    @staticmethod
    def examples(info: DatasetInfo, width: int) -> Mapping[str, tuple[Mapping[str, Any], Mapping[str, Tensor]]]:
        return {"class pixels": ({}, {})}

    @staticmethod
    def blocks(arguments: Mapping[str, Any], info: DatasetInfo) -> Mapping[str, int]:
        return {"pixels": math.prod(info.shape)}

    def public(self) -> ClassPixels:
        return self

    def rows(self, images: Tensor, labels: Tensor) -> Tensor:
        return images.flatten(1)

    def groups(self, labels: Tensor) -> Tensor:
        return labels

    def plain(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        sums = torch.zeros(self.num_groups, self.dimension, dtype=torch.float64)
        sums.index_add_(0, labels.cpu(), images.flatten(1).cpu().double())
        return sums.float(), torch.bincount(labels, minlength=self.num_groups).cpu()


@register_question("class_pixels_thrice")
class ClassPixelsThrice(ClassPixels):
    """The same, measured three times on coins of their own: their mean."""

    events: ClassVar[int] = 3

    @staticmethod
    def examples(info: DatasetInfo, width: int) -> Mapping[str, tuple[Mapping[str, Any], Mapping[str, Tensor]]]:
        return {}  # audits ask one event a query

    def answer(self) -> Measuring:
        found = []
        for _ in range(3):
            found.append((yield self))
        return torch.stack(found).mean(dim=0)


@register_method
@dataclass(frozen=True)
class MeanPixels(Method):
    """One image a class: the mean of noisy sums."""

    name: ClassVar[str] = "MeanPixels"
    question: ClassVar[str] = "class_pixels"

    rounds: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("rounds", self.rounds, "2 is usual.")

    @property
    def steered(self) -> str:
        return "nothing"

    def schedule(self, client_ids: Sequence[str]) -> list[list[str]]:
        self.rule.require(len(client_ids))
        return [list(client_ids)] * self.rounds

    def check(self, info: DatasetInfo) -> None:
        pass

    def layout(self, run: Run, client_ids: Sequence[str]) -> Layout:
        shape = (run.info.num_classes, *run.info.shape)
        return Layout(
            run,
            {
                "active": Field("some of the clients, in order", lambda value, _: is_part(value, client_ids)),
                "answered": Field("messages used, by client", lambda value, _: isinstance(value, dict)),
                "rounds": Field(f"0 ... {self.rounds}", lambda value, _: is_between(value, 0, self.rounds)),
                "steps": Field("rounds with answers", lambda value, _: is_between(value, 0, self.rounds)),
            },
            lambda _: prototypes(total=shape),
        )

    def course(self, started: Started) -> MeanPixelsCourse:
        return MeanPixelsCourse(self, started)


class MeanPixelsCourse(Course):
    """Adds messages up."""

    def __init__(self, method: MeanPixels, started: Started) -> None:
        super().__init__(started, method.rounds)
        self.method = method
        self.total = torch.zeros(self.info.num_classes, *self.info.shape)

    @property
    def planned(self) -> int:
        return self.rounds

    def wanted(self, t: int) -> Mapping[str, Wanted]:
        run = self.session.run
        query = Query(run.run_id, t, self.method.question, {}, {}, run.plan)
        want = Wanted(query, (self.info.num_classes, math.prod(self.info.shape)))
        return dict.fromkeys(self.started.client_ids, want)

    def step(self, t: int, messages: Sequence[Message]) -> float:
        if not messages:
            return math.nan
        self.total += self.method.rule(*stack(messages)).reshape(self.total.shape)
        self.steps_done += 1
        return float(self.total.std())

    def keep(self) -> Kept:
        return Kept({"rounds": self.rounds_done, "steps": self.steps_done}, {"total": self.total}, {})

    def restore(self, kept: Kept) -> None:
        self.rounds_begun = self.rounds_done = kept.progress["rounds"]
        self.steps_done, self.total = kept.progress["steps"], kept.state["total"]

    def dataset(self) -> SyntheticDataset:
        images = presentable(self.total / max(1, self.steps_done))
        return SyntheticDataset(images, torch.arange(self.info.num_classes), self.info)
