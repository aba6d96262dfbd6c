"""Whose examples share a micro-batch: one client's own, or, where clients are simulated, those of many.

A client's answer is a generator: it yields examples whose rows it needs, and is sent them.  So what a client does is
written once, and is the same to the bit in company (A2: an example's row depends on itself and the query alone).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import Generic, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor

from private_distdd.networks.micro_batch import MICRO_BATCH, padded
from private_distdd.questions.question import Measurable


class Examples(NamedTuple):
    """What a client needs rows of.

    Args:
        measured: whose rows.
        images: float32 [m, *shape], at most 64 of them, or none.
        labels: int64 [m].
    """

    measured: Measurable
    images: Tensor
    labels: Tensor


_Answer = TypeVar("_Answer")
Answering: TypeAlias = Generator[Examples, Tensor, _Answer]
"""An answer under way: it is sent float32 [>= m, dimension] for the m examples that it yields, in their order."""

_TOGETHER = 1 << 24  # values of messages under way at once, all clients together


def alone(answering: Answering[_Answer]) -> _Answer:
    """The answer, from micro-batches of the client's own examples."""
    try:
        examples = next(answering)
        while True:
            try:
                rows = [_rows([examples])]
            except Exception as error:  # the client knows what becomes of it
                examples = answering.throw(error)
            else:
                examples = answering.send(rows.pop())  # kept nowhere: the next rows take their memory
    except StopIteration as end:
        answer: _Answer = end.value
        return answer


class Company(Generic[_Answer]):
    """Answers of several clients under way, whose examples share micro-batches.

    Attributes:
        answers: those that are ready, by client.
    """

    def __init__(self) -> None:
        self.answers: dict[str, _Answer] = {}
        self._waiting: deque[tuple[str, Answering[_Answer], Examples]] = deque()
        self._examples = self._values = 0  # of those who wait

    def begin(self, name: str, answering: Answering[_Answer]) -> None:
        """One more client; rows are computed when they fill a micro-batch, or are many."""
        self._go_on(name, answering, None)
        while self._is_full():
            self._compute()

    def finish(self) -> None:
        """All answers that were begun."""
        while self._waiting:
            self._compute()

    def _is_full(self) -> bool:
        return self._examples >= MICRO_BATCH or self._values > _TOGETHER

    def _compute(self) -> None:
        """One micro-batch of those who wait longest."""
        served, room = 0, MICRO_BATCH
        for *_, examples in self._waiting:
            if examples.measured is not self._waiting[0][2].measured or len(examples.labels) > room:
                break
            served, room = served + 1, room - len(examples.labels)
        parts = [examples for *_, examples in list(self._waiting)[:served]]
        rows: Tensor | Exception
        try:
            rows = _rows(parts)
        except Exception as error:  # each client knows what becomes of it
            rows = error
        start = 0
        for examples in parts:
            name, answering, _ = self._waiting.popleft()
            self._count(examples, -1)
            stop = start + len(examples.labels)
            self._go_on(name, answering, rows if isinstance(rows, Exception) else rows[start:stop])
            start = stop

    def _go_on(self, name: str, answering: Answering[_Answer], rows: Tensor | Exception | None) -> None:
        try:
            match rows:
                case None:
                    examples = next(answering)
                case Exception():
                    examples = answering.throw(rows)
                case _:
                    examples = answering.send(rows)
        except StopIteration as end:
            self.answers[name] = end.value
        else:
            self._waiting.append((name, answering, examples))
            self._count(examples, 1)

    def _count(self, examples: Examples, sign: int) -> None:
        self._examples += sign * len(examples.labels)
        self._values += sign * examples.measured.num_groups * examples.measured.dimension


def _rows(parts: list[Examples]) -> Tensor:
    """Rows of at most 64 examples of one question, in a padded micro-batch."""
    if len(parts) == 1:
        return parts[0].measured.rows(*padded(parts[0].images, parts[0].labels))
    images, labels = (torch.cat(tensors) for tensors in zip(*((p.images, p.labels) for p in parts), strict=True))
    return parts[0].measured.rows(*padded(images, labels))
