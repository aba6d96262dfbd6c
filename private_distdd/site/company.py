"""Whose examples share a micro-batch: one client's own, or, where clients are simulated, those of many.

A client's answer is a generator: it yields examples whose rows it needs, and is sent them.  So what a client does is
written once, and is the same to the bit in company (A2: an example's row depends on itself and the query alone).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from typing import Generic, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor

from private_distdd.networks.micro_batch import MICRO_BATCH, padded
from private_distdd.questions.question import Measurable


class Examples(NamedTuple):
    """What a client needs rows of: one micro-batch, whose size does not tell how many examples are in it.

    Args:
        measured: whose rows.
        images: float32 [64, ...]: the examples, or what a fixed map made of them, then zeros.
        labels: int64 [64], likewise.
        size: m, how many are examples; secret.
    """

    measured: Measurable
    images: Tensor
    labels: Tensor
    size: int


_Answer = TypeVar("_Answer")
Answering: TypeAlias = Generator[Examples, Tensor, _Answer]
"""An answer under way: it is sent float32 [>= m, dimension] for the m examples that it yields, in their order.

It may hold its client's lock meanwhile, so whoever drives it closes it in the end, whatever happens."""

_TOGETHER = 1 << 24  # values of messages and images under way at once, all clients together


def alone(answering: Answering[_Answer]) -> _Answer:
    """The answer, from micro-batches of the client's own examples."""
    try:
        examples = next(answering)
        while True:
            try:
                rows = _rows([examples])
            except Exception as error:  # the client knows what becomes of it
                examples = answering.throw(error)
            else:
                del examples  # kept nowhere, as the rows: the next ones take their memory
                examples = answering.send(rows.pop())
    except StopIteration as end:
        answer: _Answer = end.value
        return answer
    finally:
        answering.close()  # after Ctrl-C in the rows it would keep its client's lock as long as the traceback lives


class Company(Generic[_Answer]):
    """Answers of several clients under way, whose examples share micro-batches.

    Args:
        came: called with a client's name when its answer is ready.

    Attributes:
        answers: those that are ready, by client; who failed with an exception has none, and the client's log has it.
    """

    def __init__(self, came: Callable[[str], object] = lambda name: None) -> None:
        self._came = came
        self.answers: dict[str, _Answer] = {}
        self._begun: dict[str, Answering[_Answer]] = {}
        self._waiting: dict[str, Examples] = {}  # who waits longest comes first
        self._examples = self._values = 0  # of those who wait

    def begin(self, name: str, answering: Answering[_Answer]) -> None:
        """One more client; rows are computed when they fill a micro-batch, or are many."""
        self._begun[name] = answering
        self._go_on(name, None)
        while self._is_full():
            self._serve(self._longest_waiting())

    def finish(self) -> None:
        """All answers that were begun."""
        while self._waiting:
            self._serve(self._longest_waiting())

    def close(self) -> None:
        """Give up what was begun and not finished: no client stays locked."""
        for answering in self._begun.values():
            answering.close()

    def _is_full(self) -> bool:
        return self._examples >= MICRO_BATCH or self._values > _TOGETHER

    def _longest_waiting(self) -> list[str]:
        """Who fills the next micro-batch."""
        measured = next(iter(self._waiting.values())).measured
        served, room = list[str](), MICRO_BATCH
        for name, examples in self._waiting.items():
            if examples.measured is not measured or examples.size > room:
                break
            served.append(name)
            room -= examples.size
        return served

    def _serve(self, names: list[str]) -> None:
        try:
            rows = _rows([self._waiting[name] for name in names])
        except Exception as error:
            if len(names) == 1:
                self._go_on(names[0], error)  # the client knows what becomes of it
                return
        else:
            for name, own in zip(names, rows, strict=True):
                self._go_on(name, own)
            return
        for name in names:  # again, one by one: whose failure it is nobody else shares
            self._serve([name])

    def _go_on(self, name: str, rows: Tensor | Exception | None) -> None:
        answering = self._begun[name]
        if name in self._waiting:
            self._count(self._waiting.pop(name), -1)
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
            self._came(name)
        except Exception as error:  # absent; the others go on
            logging.getLogger(f"private_distdd_client.{name}").error("no answer: %s", error, exc_info=error)
        else:
            self._waiting[name] = examples
            self._count(examples, 1)

    def _count(self, examples: Examples, sign: int) -> None:
        self._examples += sign * examples.size
        self._values += sign * (examples.measured.num_groups * examples.measured.dimension + examples.images.numel())


def _rows(parts: list[Examples]) -> list[Tensor]:
    """Rows of each part, at most 64 examples of one question in all, in one micro-batch; a single part is one."""
    measured = parts[0].measured
    if len(parts) == 1:
        return [measured.rows(parts[0].images, parts[0].labels)]
    images = torch.cat([part.images[: part.size] for part in parts])
    labels = torch.cat([part.labels[: part.size] for part in parts])
    rows = measured.rows(*padded(images, labels))[: len(labels)]
    return list(torch.split(rows, [part.size for part in parts]))
