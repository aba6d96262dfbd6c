"""How a question is audited: what the class of every question that may be asked with privacy says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from private_distdd.data.info import DatasetInfo

SpecificAttack: TypeAlias = Literal["inversion", "membership"]
"""Attacks that read a message as something of its own: as gradients of a network at known weights.

A class says with `attacks`, a frozenset of them, which fit its messages; without it, none.  Everything else that audits
do fits any question, and is done to all of them.
"""

Asked: TypeAlias = tuple[Mapping[str, Any], Mapping[str, Tensor]]
"""A query's arguments and tensors."""


@runtime_checkable
class Audited(Protocol):
    """What the audits ask of a registered question's class, beside the question itself."""

    def examples(self, info: DatasetInfo, width: int) -> Mapping[str, Asked]:
        """In which forms small clients are asked, by name in words; the first is the usual one.

        Audits ask one event a query: a question that takes several has none.

        Args:
            info: of those who are asked.
            width: how large a message is, about: of a network's layer, for example.
        """
        ...

    def blocks(self, arguments: Mapping[str, Any], info: DatasetInfo) -> Mapping[str, int]:
        """The parts of a row that mean something of their own, by name, in order: their lengths add up to the row's.

        Each has noise of its own scale to show, and moves by its own part of the clipped row.
        """
        ...
