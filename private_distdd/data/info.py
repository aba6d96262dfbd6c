"""What is public about a data set: name, classes, shape and normalisation, all of them constants (A6)."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor

from private_distdd.data.form import Form, Shape, form_of, forms
from private_distdd.encoding import to_json
from private_distdd.errors import DataError
from private_distdd.limits import CLASS_NAMES, CLASSES, NAME_LENGTH
from private_distdd.validate import is_real, is_whole

Constant: TypeAlias = float | Sequence[float]  # one for all channels or features, or one for each
Constants: TypeAlias = Mapping[str, tuple[float, ...]]
_UNSAID: tuple[float, ...] = (math.nan,)  # stands for the form's usual constant


@dataclass(frozen=True)
class DatasetInfo:
    """What is public about a data set.

    Args:
        name: how reports call it; at most 256 characters.
        num_classes: 2 ... 65,536; labels are 0 ... num_classes - 1.
        shape: of one example, each number at least 1.  Of an image (channels, height, width), at most 4,096 channels
            and 2^24 values; of a row of a table (features,), at most 1,024.
        mean: subtracted from the source's values (pixels in [0, 1], or a table's numbers), one number for each channel
            or feature (a single one is repeated); finite.  Left out: 0.5 for images, 0 for tables.
        std: then divided out of them, likewise; finite and > 0.  Left out: 0.5 for images, 1 for tables.
        classes: names of the classes in the order of their labels, different, of printable characters, at most 2^14
            characters in all as JSON.  Public, as all of this.  Empty where they have none but their numbers.

    Raises:
        DataError: an argument is outside its range.
    """

    name: str
    num_classes: int
    shape: Shape
    mean: tuple[float, ...] = _UNSAID
    std: tuple[float, ...] = _UNSAID
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not 0 < len(self.name) <= NAME_LENGTH:
            raise DataError(
                f"data set name {self.name!r}", f"a non-empty string of at most {NAME_LENGTH} characters", "Name it."
            )
        if not is_whole(self.num_classes) or not 2 <= self.num_classes <= CLASSES:
            raise DataError(
                f"num_classes = {self.num_classes!r}",
                f"a whole number of at least 2 and at most {CLASSES}",
                "Count them.",
            )
        object.__setattr__(self, "classes", _names(self.classes, self.num_classes))
        form = form_of(self.shape)
        object.__setattr__(self, "shape", form.shape)
        object.__setattr__(self, "mean", _for_each_lane("mean", self.mean, form.usual_mean, form.lanes))
        object.__setattr__(self, "std", _for_each_lane("std", self.std, form.usual_std, form.lanes))
        if min(self.std) <= 0:
            raise DataError(
                f"std = {self.std!r}", "numbers > 0", f"Use {form.usual_std} where nothing better is published."
            )

    @cached_property
    def form(self) -> Form:
        """What follows from the shape."""
        return form_of(self.shape)

    def normalise(self, examples: Tensor) -> Tensor:
        """The source's values, [..., *shape], to the scale networks see: (value - mean) / std, float32."""
        mean, std = (self.form.spread(values) for values in (self.mean, self.std))
        # One copy, then in place: CIFAR-10 is 700 MB.
        return examples.to(torch.float32, copy=True).sub_(mean).div_(std)

    def denormalise(self, examples: Tensor) -> Tensor:
        """The inverse of `normalise`, unclamped: a synthetic image may leave [0, 1]."""
        mean, std = (self.form.spread(values) for values in (self.mean, self.std))
        return examples * std + mean

    @property
    def bounds(self) -> tuple[Tensor, Tensor] | None:
        """Least and greatest value of an example, normalised: black and white, float32 [C, 1, 1] each.

        None for rows of a table, whose values have no bounds.
        """
        if self.form.bounds is None:
            return None
        least, most = (self.normalise(self.form.spread([level] * self.form.lanes)) for level in self.form.bounds)
        return least, most

    def augment(self, examples: Tensor, generator: torch.Generator) -> Tensor:
        """See `Form.augment`."""
        return self.form.augment(examples, None if self.bounds is None else self.bounds[0], generator)

    def class_name(self, label: int) -> str:
        """How reports call a class: its name, or its number."""
        return self.classes[label] if self.classes else str(label)

    def to_json(self) -> dict[str, Any]:
        """A JSON object; `from_json` is its inverse.  Without names of classes there is no field for them."""
        record = asdict(self) | {name: list(getattr(self, name)) for name in ("shape", "mean", "std")}
        record[self.form.key] = record.pop("shape")  # "image_shape", as every release, ledger and checkpoint has it
        if not record.pop("classes"):  # a run without names has the bytes that it had before there were any
            return record
        return record | {"classes": list(self.classes)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> DatasetInfo:
        """The info that `to_json` wrote.

        Raises:
            DataError: missing or unknown fields, a value out of range, or a shape under another form's name.
        """
        fields = set(record) if isinstance(record, Mapping) else set()
        named = fields & {"classes"}
        others = {"name", "num_classes", "mean", "std"} | named
        keys = sorted({form.key for form in forms()})
        key = next((key for key in keys if fields == others | {key}), None)
        if key is None:
            raise DataError(
                f"data set info {record!r}",
                f"the fields {sorted(others)} and {' or '.join(keys)}",
                "The record is damaged.",
            )
        info = cls(shape=record[key], **{name: record[name] for name in others})
        if info.form.key != key:
            raise DataError(f"{key} = {record[key]!r}", f"{info.form.key} for {info.form.many}", "It is damaged.")
        if named and info.classes != tuple(record["classes"]):  # one info, one way to write it
            raise DataError(f"classes = {record['classes']!r}", "names other than 0, 1, ...", "It is damaged.")
        return info


def constants(values: Constant) -> tuple[float, ...]:
    """One number, or several, as a tuple."""
    return tuple(values) if isinstance(values, Sequence) else (values,)


def _names(classes: object, count: int) -> tuple[str, ...]:
    """The names as a tuple; none where they are "0", "1", ..., which say nothing.

    Raises:
        DataError: they are not as `DatasetInfo` says.
    """
    if classes == ():
        return ()
    names = tuple(classes) if isinstance(classes, Sequence) and not isinstance(classes, str) else (None,)
    fit = all(isinstance(name, str) and name and name.isprintable() for name in names)
    if not fit or len(set(names)) != len(names) or len(names) != count:
        raise DataError(f"classes = {classes!r}", f"{count} different names that can be printed", "Name each class.")
    if (length := len(to_json(names))) > CLASS_NAMES:
        raise DataError(f"names of classes of {length} characters", f"at most {CLASS_NAMES}", "Shorten or number them.")
    return () if names == tuple(map(str, range(count))) else tuple(map(str, names))


def _for_each_lane(field: str, values: object, usual: float, lanes: int) -> tuple[float, ...]:
    if values is _UNSAID:
        return (usual,) * lanes
    if (
        not isinstance(values, Sequence)
        or len(values) not in (1, lanes)
        or not all(is_real(value) and abs(value) <= sys.float_info.max for value in values)
    ):
        raise DataError(f"{field} = {values!r}", f"{lanes} finite numbers", "Give one value for all, or one for each.")
    return tuple(float(value) for value in values) * (lanes // len(values))
