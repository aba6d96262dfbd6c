"""Rows of a table: the form of examples of shape (features,)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from private_distdd.data.form import Form, register_form
from private_distdd.data.scatter import scatter_plot
from private_distdd.errors import ConfigurationError, DataError
from private_distdd.limits import FEATURES


@register_form
@dataclass(frozen=True)
class TableForm(Form):
    """(features,), 1 ... 1,024 of them; each is a number without bounds, and has constants of its own."""

    name: ClassVar[str] = "table"
    rank: ClassVar[int] = 1
    layout: ClassVar[str] = "(features,)"
    key: ClassVar[str] = "shape"
    one: ClassVar[str] = "row"
    many: ClassVar[str] = "rows"
    value: ClassVar[str] = "value"
    spatial: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float] | None] = None
    usual_mean: ClassVar[float] = 0.0
    usual_std: ClassVar[float] = 1.0

    def _check_size(self) -> None:
        if self.lanes > FEATURES:
            raise DataError(f"shape = {self.shape!r}", f"at most {FEATURES} features", "Leave some columns out.")

    @property
    def lanes(self) -> int:
        """One a feature."""
        return self.shape[0]

    @property
    def words(self) -> str:
        """How many features."""
        return f"{self.lanes} feature{'s' if self.lanes > 1 else ''}"

    def spread(self, constants: Sequence[float]) -> Tensor:
        """float32 [features]."""
        return torch.tensor(constants)

    def augment(self, examples: Tensor, lowest: Tensor | None, generator: torch.Generator) -> Tensor:
        """Refused: there is no change that every table can bear."""
        raise ConfigurationError(f"augment = True for rows of {self.words}", "False", "Train on rows as they are.")

    def picture(self, examples: Tensor, num_classes: int, denormalise: Callable[[Tensor], Tensor]) -> NDArray[np.uint8]:
        """A scatter plot: see `scatter_plot`."""
        return scatter_plot(examples.numpy().astype(np.float64), num_classes)
