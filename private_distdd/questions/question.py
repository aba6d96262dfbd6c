"""What a question is: one thing that a client may be asked about its examples, by name and never by code."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias

from torch import Tensor


class PlainQuestion(Protocol):
    """One registered question, made for one query of a run without privacy.

    Its class is called with (arguments, tensors, info, device), all of them public: the query's, the public constants
    of the data, and where to compute; what is wrong with them it refuses with an error of this library.  It has a
    static or class method `cost(arguments, info) -> Cost`: what an answer takes at most, by arithmetic alone.

    Attributes:
        num_groups: rows of a message's values; public, the same for all data.
        dimension: columns of a message's values; public, the same for all data.
    """

    num_groups: int
    dimension: int

    def plain(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Sums by group, float32 [num_groups, dimension], and counts int64 [num_groups]."""
        ...


class Measurable(Protocol):
    """What the mechanism can measure: a row of values for each example, and the group it is summed into.

    Attributes:
        num_groups: groups; public.
        dimension: values in a row; public.
    """

    num_groups: int
    dimension: int

    def rows(self, images: Tensor, labels: Tensor) -> Tensor:
        """One row an example, which depends on this example and public values alone (A2).

        Args:
            images: float32 [64, *shape]: one micro-batch as `micro_batch.padded` makes it.
            labels: int64 [64].

        Returns:
            float32 [64, dimension].
        """
        ...

    def groups(self, labels: Tensor) -> Tensor:
        """The group of each example, int64 [n], in [0, num_groups)."""
        ...


@dataclass(frozen=True)
class FixedMap:
    """A public map of one example that is the same in many queries, so that a client may compute it once.

    Args:
        key: equal keys mean equal maps, whatever the query.
        outputs: float32 [64, *shape] -> float32 [64, ...], of each example by itself and public values alone (A2).
    """

    key: Hashable
    outputs: Callable[[Tensor], Tensor]


class OnOutputs:
    """A `Measurable` whose `rows` takes, in place of examples, what a fixed map makes of them.

    Args:
        question: what makes the same rows of the examples themselves.
        fixed: the map.
        rows: float32 [64, ...], outputs of the map, and labels int64 [64] -> float32 [64, dimension].
    """

    def __init__(self, question: Measurable, fixed: FixedMap, rows: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.num_groups, self.dimension = question.num_groups, question.dimension
        self.question, self.fixed, self._rows = question, fixed, rows

    def rows(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """One row an example, to the bit that of the question."""
        return self._rows(outputs, labels)

    def groups(self, labels: Tensor) -> Tensor:
        """As the question's."""
        return self.question.groups(labels)


Measuring: TypeAlias = Generator[Measurable, Tensor, Tensor]
"""A message under way: yields what the mechanism shall measure, on coins of its own, and is sent the noisy sums over b,
float32 [num_groups, dimension]; returns the message's values."""


class Question(PlainQuestion, Measurable, Protocol):
    """One that may be asked for with privacy too."""

    @property
    def events(self) -> int:
        """Measurements that an answer takes, each on an independent draw of coins and so an event of its own.

        The run's plan must say the same number.
        """
        ...

    def answer(self) -> Measuring:
        """A message's values, float32 [num_groups, dimension], made of at most `events` measurements and nothing else.

        A later measurement may depend on the values of earlier ones: they are what everybody may see.

        Clients of one process share the question and have answers under way side by side.  So neither this nor `rows`
        may change the question: what one answer has seen stays in its local variables, and a measurement that depends
        on it is a new `Measurable`, which is yielded in place of `self`.
        """
        ...

    def public(self) -> Question:
        """The same, but for tensors of the query: public ones instead."""
        ...


class MeasuredOnce:
    """For questions whose message is one measurement of their own rows."""

    events: ClassVar[int] = 1

    def answer(self: Measurable) -> Measuring:
        """The measurement itself."""
        return (yield self)
