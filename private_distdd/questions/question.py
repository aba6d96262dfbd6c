"""What a question is: one thing that a client may be asked about its examples, by name and never by code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from private_distdd.privacy.mechanism import Rows


class PlainQuestion(Protocol):
    """One registered question, made for one query of a run without privacy.

    Attributes:
        num_groups: rows of a message's values; public, the same for all data.
        dimension: columns of a message's values; public, the same for all data.
    """

    num_groups: int
    dimension: int

    def plain(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Sums by group, float32 [num_groups, dimension], and counts int64 [num_groups]."""
        ...


class Question(PlainQuestion, Protocol):
    """One that may be asked for with privacy too: it has rows for the mechanism."""

    def rows(self, images: Tensor, labels: Tensor) -> Iterator[Rows]:
        """Per example: a row float32 [dimension] that depends on this example alone (A2), and its group.

        Args:
            images: float32 [>= n, C, H, W]; a client hands over 64, padding included, so that memory tells nothing.
            labels: int64 [n], n >= 0; without any, one micro-batch of padding is computed all the same.
        """
        ...

    def public(self) -> Question:
        """The same, but for tensors of the query: public ones instead."""
        ...
