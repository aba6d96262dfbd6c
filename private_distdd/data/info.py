"""What is public about a data set: name, classes, shape and normalisation, all of them constants (A6)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from private_distdd.errors import DataError
from private_distdd.limits import CHANNELS, CLASSES, NAME_LENGTH, PIXELS

ImageShape: TypeAlias = tuple[int, int, int]
PerChannel: TypeAlias = float | Sequence[float]
Constants: TypeAlias = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class DatasetInfo:
    """What is public about a data set.

    Args:
        name: how reports call it; at most 256 characters.
        num_classes: 2 ... 65,536; labels are 0 ... num_classes - 1.
        shape: (channels, height, width), each at least 1; at most 4,096 channels and 2^24 values.
        mean: subtracted from pixels in [0, 1], one number for each channel (a single one is repeated); finite.
        std: then divided out of them, likewise; finite and > 0.

    Raises:
        DataError: an argument is outside its range.
    """

    name: str
    num_classes: int
    shape: ImageShape
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)

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
        shape = self.shape
        if not isinstance(shape, Sequence) or len(shape) != 3 or not all(is_whole(n) and n >= 1 for n in shape):
            raise DataError(f"shape = {shape!r}", "(channels, height, width), each >= 1", "Give three numbers.")
        if shape[0] > CHANNELS or math.prod(shape) > PIXELS:  # each channel has constants of its own
            raise DataError(
                f"shape = {shape!r}", f"at most {CHANNELS} channels and {PIXELS} values", "Take smaller images."
            )
        object.__setattr__(self, "shape", tuple(int(n) for n in shape))
        object.__setattr__(self, "mean", self._per_channel("mean", self.mean))
        object.__setattr__(self, "std", self._per_channel("std", self.std))
        if min(self.std) <= 0:
            raise DataError(f"std = {self.std!r}", "numbers > 0", "Use 0.5 where nothing better is published.")

    def _per_channel(self, field: str, values: Sequence[float]) -> tuple[float, ...]:
        channels = self.shape[0]
        if (
            not isinstance(values, Sequence)
            or len(values) not in (1, channels)
            or not all(is_real(value) and math.isfinite(value) for value in values)
        ):
            raise DataError(f"{field} = {values!r}", f"{channels} finite numbers", "Give one value for each channel.")
        return tuple(float(value) for value in values) * (channels // len(values))

    def normalise(self, images: Tensor) -> Tensor:
        """Pixels in [0, 1], [..., C, H, W], to the scale networks see: (pixel - mean) / std, float32."""
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return images.to(torch.float32, copy=True).sub_(mean).div_(std)  # one copy, then in place: CIFAR-10 is 700 MB

    def denormalise(self, images: Tensor) -> Tensor:
        """The inverse of `normalise`, unclamped: a synthetic image may leave [0, 1]."""
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return images * std + mean

    def to_json(self) -> dict[str, Any]:
        """A JSON object; `from_json` is its inverse."""
        record = asdict(self) | {name: list(getattr(self, name)) for name in ("shape", "mean", "std")}
        record["image_shape"] = record.pop("shape")  # as every release, ledger and checkpoint so far has it
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> DatasetInfo:
        """The info that `to_json` wrote.

        Raises:
            DataError: missing or unknown fields, or a value out of range.
        """
        fields = set(cls.__dataclass_fields__) - {"shape"} | {"image_shape"}
        if not isinstance(record, Mapping) or set(record) != fields:
            raise DataError(f"data set info {record!r}", f"the fields {sorted(fields)}", "The record is damaged.")
        return cls(**{"shape" if name == "image_shape" else name: value for name, value in record.items()})


def image_shape_of(images: Tensor) -> ImageShape:
    """(C, H, W) of images [..., C, H, W]."""
    channels, height, width = images.shape[-3:]
    return channels, height, width


def per_channel(values: PerChannel) -> tuple[float, ...]:
    return tuple(values) if isinstance(values, Sequence) else (values,)


def is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
