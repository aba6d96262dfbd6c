"""What an audited client is asked: any registered question, so that every method's messages are attacked alike."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError
from private_distdd.networks.micro_batch import padded
from private_distdd.questions.audited import Audited, SpecificAttack
from private_distdd.questions.register import PRIVATE_QUESTIONS, private_question
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
        """The parts of a row that mean something of their own, by name: see `Audited.blocks`.

        Raises:
            ConfigurationError: nobody has said how this question is audited.
        """
        lengths = declared(self.question).blocks(self.arguments, info)
        ends = itertools.accumulate(lengths.values())
        return {name: slice(end - lengths[name], end) for name, end in zip(lengths, ends, strict=True)}

    def hostile(self) -> Mapping[str, Probe]:
        """This question, and the same with huge and with NaN tensors where it has any."""
        changed = {"honest": 1.0} | ({"huge": 1e15, "NaN": math.nan} if self.tensors else {})
        return {
            name: Probe(self.question, self.arguments, {key: factor * t for key, t in self.tensors.items()})
            for name, factor in changed.items()
        }


def declared(question: str) -> Audited:
    """How a registered question is audited, in its own words.

    Raises:
        ConfigurationError: it is not registered for runs with privacy, or does not say how it is audited.
    """
    if question not in PRIVATE_QUESTIONS:
        raise ConfigurationError(
            f"question {question!r}", f"one of {sorted(PRIVATE_QUESTIONS)}", "Import the module that registers it."
        )
    made: object = PRIVATE_QUESTIONS[question]
    if not isinstance(made, Audited):
        raise ConfigurationError(
            f"question {question!r}, which does not say how it is audited",
            "a class with `examples` and `blocks`",
            "See questions/audited.py, and questions/class_gradients.py for an example.",
        )
    return made


def attacks_of(question: str) -> frozenset[SpecificAttack]:
    """Which of the attacks that fit some questions only fit this one: none, unless its class says so.

    Raises:
        ConfigurationError: as `declared`.
    """
    return getattr(declared(question), "attacks", frozenset())


def usual_probe(question: str, info: DatasetInfo, width: int = 16) -> Probe:
    """One registered question in its usual form, small.

    Args:
        question: its name.
        info: of those who are asked.
        width: see `Audited.examples`.

    Raises:
        ConfigurationError: as `declared`, or it has no form.
    """
    forms = declared(question).examples(info, width)
    if not forms:
        raise ConfigurationError(
            f"question {question!r}, which has no example to ask", "one event a query", "It cannot be audited yet."
        )
    return Probe(question, *next(iter(forms.values())))


def every_question(info: DatasetInfo, width: int = 8) -> Mapping[str, Probe]:
    """All registered questions, each in all forms that its class names, by the names of the forms.

    Args:
        info: of those who are asked.
        width: see `Audited.examples`.

    Raises:
        ConfigurationError: as `declared`; or two questions have forms of one name.
    """
    found: dict[str, Probe] = {}
    for question in PRIVATE_QUESTIONS:
        for name, asked in declared(question).examples(info, width).items():
            if name in found:
                raise ConfigurationError(f"a form {name!r} of two questions", "names that differ", "Rename one.")
            found[name] = Probe(question, *asked)
    return found


def any_question(info: DatasetInfo) -> Probe:
    """A registered question, for gates to which it is all the same which one is asked."""
    return next(iter(every_question(info).values()))
