"""The form of an example: its shape, and what follows from the shape.

Everything in the library that must know whether an example is an image or a row of a table asks here: how many
constants normalise it, between which values it lies, whether its values have neighbours, how it is augmented, and how
a set of examples is shown.  A new form is a file like image.py or table.py, which registers a class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from private_distdd.errors import ConfigurationError, DataError
from private_distdd.validate import is_whole

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Form(ABC):
    """One kind of example, of one shape.

    Args:
        shape: of one example; each number is at least 1.

    Raises:
        DataError: an example of this shape would be too large.
    """

    shape: Shape

    name: ClassVar[str]  # in files
    rank: ClassVar[int]  # how many numbers a shape of this form has
    layout: ClassVar[str]  # what they are, in words
    key: ClassVar[str]  # the shape's name in the JSON of a `DatasetInfo`: "shape", but for images
    one: ClassVar[str]  # what an example is called
    many: ClassVar[str]
    value: ClassVar[str]  # and one of its numbers
    spatial: ClassVar[bool]  # do its values have neighbours, so that it can be moved, cut, enlarged and smoothed?
    bounds: ClassVar[tuple[float, float] | None]  # between which numbers its values lie before they are normalised
    usual_mean: ClassVar[float]  # the public constants where nobody says any
    usual_std: ClassVar[float]

    def __post_init__(self) -> None:
        self._check_size()

    @abstractmethod
    def _check_size(self) -> None:
        """Raise a DataError for a shape that is too large."""

    @property
    @abstractmethod
    def lanes(self) -> int:
        """How many numbers `mean` has, and `std`: those of one example that are normalised each by its own."""

    @property
    @abstractmethod
    def words(self) -> str:
        """The shape in words, such as "8 by 8 pixels, 1 channel"."""

    @abstractmethod
    def spread(self, constants: Sequence[float]) -> Tensor:
        """`lanes` numbers as a float32 tensor that broadcasts over examples [..., *shape]."""

    def require_spatial(self, what: str, instead: str) -> None:
        """Refuse what needs values with neighbours.

        Args:
            what: was asked for, such as "pool = 2".
            instead: what to ask for.

        Raises:
            ConfigurationError: these examples have none.
        """
        if not self.spatial:
            raise ConfigurationError(f"{what} for {self.many} of {self.words}", instead, "Only pixels have neighbours.")

    @abstractmethod
    def augment(self, examples: Tensor, lowest: Tensor | None, generator: torch.Generator) -> Tensor:
        """Each example changed at random, a little, as networks shall not mind it; for training only.

        Args:
            examples: float32 [n, *shape], normalised.
            lowest: what comes in from outside: the least value of an example, as `DatasetInfo.bounds` has it.
            generator: of the changes; public.

        Raises:
            ConfigurationError: nothing can be changed in examples of this form.
        """

    @abstractmethod
    def picture(self, examples: Tensor, num_classes: int, denormalise: Callable[[Tensor], Tensor]) -> NDArray[np.uint8]:
        """Examples for the eye, uint8 [height, width, 3]; the same on every machine.

        Args:
            examples: float32 [num_classes * m, *shape], normalised, on the CPU: m >= 1 of class 0, then of class 1, ...
            num_classes: how many there are.
            denormalise: from the scale of `examples` to that of the source.
        """

    def named(self, picture: NDArray[np.uint8], classes: Sequence[str]) -> NDArray[np.uint8]:
        """The picture with the classes' names beside it, where this form has a place for them; else as it is.

        Args:
            picture: as `picture` makes it.
            classes: the names.
        """
        return picture


_FORMS: dict[int, type[Form]] = {}
_Registered = TypeVar("_Registered", bound=type[Form])


def register_form(form: _Registered) -> _Registered:
    """Decorator: shapes of `form.rank` numbers are of this form."""
    _FORMS[form.rank] = form
    return form


def forms() -> tuple[type[Form], ...]:
    """The registered forms, by rank."""
    return tuple(_FORMS[rank] for rank in sorted(_FORMS))


def form_of(shape: Any) -> Form:
    """The form of examples of this shape: an image for (channels, height, width), a row of a table for (features,).

    Raises:
        DataError: no form has such shapes, or it is too large.
    """
    kind = _FORMS.get(len(shape)) if isinstance(shape, Sequence) else None
    if kind is None or not all(is_whole(n) and n >= 1 for n in shape):
        layouts = " or ".join(form.layout for form in forms()[::-1])
        raise DataError(f"shape = {shape!r}", f"{layouts}, each >= 1", "Give one or three whole numbers.")
    return kind(tuple(int(n) for n in shape))
