"""Noisy values in fewer bits: the post-processing of a message before it leaves, and its reading.

A unit is the standard deviation sigma C / b of the noise on a value; what is beyond the range of a form is cut to it.

    form       a value takes   steps of    range
    float32    4 bytes         -           all
    float16    2 bytes         its own     65,504 units either way
    int8       1 byte          1/4 unit    31.75 units either way; rounding adds 0.5 % to the noise's variance
    int4       4 bits          1 unit      7 units either way; rounding adds 8 %

All of it follows from public constants, so all messages to one query have one size still (A4).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from private_distdd.errors import ConfigurationError
from private_distdd.privacy.plan import PrivacyPlan

PLAIN = "float32"
_LARGEST = {"float16": 65504, "int8": 127, "int4": 7}
_STEPS = {"float16": 1, "int8": 4, "int4": 1}  # a unit
_TYPES = {"float16": torch.float16, "int8": torch.int8, "int4": torch.uint8}
FORMATS = (PLAIN, *_STEPS)


def require_format(name: object, private: bool) -> None:
    """Refuse a form that is none, or one that needs noise in a run without privacy.

    Raises:
        ConfigurationError: it is.
    """
    if name not in FORMATS:
        raise ConfigurationError(f"message_format = {name!r}", f"one of {FORMATS}", "float32 sends values as they are.")
    if name != PLAIN and not private:
        raise ConfigurationError(
            f"message_format = {name!r} without privacy", f"{PLAIN!r}", "The others are in units of the noise."
        )


@dataclass(frozen=True)
class Packing:
    """How the values of a run's messages are packed.

    Args:
        form: "float16", "int8" or "int4".
        unit: > 0.
    """

    form: str
    unit: float

    @classmethod
    def of(cls, form: str, plan: PrivacyPlan | None) -> Packing | None:
        """That of a run's messages; None where values are sent as they are."""
        if form == PLAIN or plan is None:
            return None
        return cls(form, plan.noise_multiplier * plan.max_grad_norm / plan.divisor)

    @property
    def rounding(self) -> float:
        """How far a value within the range is moved at most, in units; of float16, beside its relative rounding."""
        return 2.0**-25 if self.form == "float16" else 0.5 / _STEPS[self.form]

    def pack(self, values: Tensor) -> Tensor:
        """Finite float32 [groups, d] as float16 or int8 [groups, d]; or as uint8 [groups, (d + 1) // 2], two a byte."""
        most = _LARGEST[self.form]
        scaled = values.to(torch.float64).mul_(_STEPS[self.form] / self.unit).clamp_(-most, most)
        if self.form == "float16":
            return scaled.to(torch.float16)
        whole = scaled.round_().to(torch.int8)
        if self.form == "int8":
            return whole
        nibbles = torch.nn.functional.pad(whole + 8, (0, whole.shape[1] % 2)).to(torch.uint8)
        return nibbles[:, 0::2] << 4 | nibbles[:, 1::2]

    def unpack(self, packed: Tensor, columns: int) -> Tensor:
        """The values, float32 [groups, columns], but for rounding.

        Raises:
            ValueError: it is not what `pack` makes of so many columns.
        """
        if packed.dtype != _TYPES[self.form] or packed.ndim != 2:
            raise ValueError(f"values of a message in {self.form} are {_TYPES[self.form]} of two dimensions")
        if packed.shape[1] != ((columns + 1) // 2 if self.form == "int4" else columns):
            raise ValueError(f"{packed.shape[1]} packed columns, of {columns}")
        if self.form == "int4":
            packed = (torch.stack([packed >> 4, packed & 15], dim=2).flatten(1).to(torch.int8) - 8)[:, :columns]
        return (packed.to(torch.float64) * (self.unit / _STEPS[self.form])).to(torch.float32)
