"""Data sets of Hugging Face's `datasets`, which is never imported here: what they offer is enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import Constant
from private_distdd.data.normalised import from_torch
from private_distdd.data.pixels import Size, checked_channels, checked_size, fitted, from_picture
from private_distdd.errors import DataError


def from_huggingface(
    dataset: Any,
    *,
    example: str = "image",
    label: str = "label",
    num_classes: int | None = None,
    classes: Sequence[str] = (),
    name: str = "own",
    mean: Constant | None = None,
    std: Constant | None = None,
    size: Size | None = None,
    channels: int | None = None,
    transform: Callable[[Any], Tensor] | None = None,
) -> ImageDataset:
    """One split of a Hugging Face data set, such as `datasets.load_dataset("mnist")["train"]`.

    Anything that has a length and yields a mapping for a whole number will do; a stream will not.

    Args:
        dataset: the split.  Its examples are Pillow images, uint8 arrays or tensors [H, W], [H, W, C] or [C, H, W] with
            C = 1 or 3, or floating point ones as `from_torch` takes them.
        example: the column of the examples.
        label: the column of the labels, whole numbers.
        num_classes: see `DatasetInfo`; by default that of the column's `ClassLabel`, which belongs to the data set's
            declared features and is not read off its rows.
        classes: see `DatasetInfo`; by default, where `num_classes` is not given either, the `ClassLabel`'s names.
        name: see `DatasetInfo`.
        mean: see `from_torch`.
        std: see `from_torch`.
        size: of images: see `load_dataset`.
        channels: of images: see `load_dataset`.
        transform: in place of `size` and `channels`: see `from_torch`; it is given what the column holds.

    Raises:
        DataError: there are no such columns, no class list, or as `from_torch`.
    """
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "column_names") or isinstance(dataset, dict):
        splits = f" of the splits {sorted(dataset)}" if isinstance(dataset, dict) else ""
        raise DataError(f"a {type(dataset).__name__}{splits}", "one split, that is no stream", "Pass dataset['train'].")
    for column in (example, label):
        if column not in dataset.column_names:
            raise DataError(f"column {column!r}", f"one of {list(dataset.column_names)}", "Say example= and label=.")
    if num_classes is None:
        names = classes or getattr((dataset.features or {}).get(label), "names", None) or ()
        if not names:
            raise DataError(
                f"column {label!r} without a ClassLabel", "a class list", "Say num_classes=, a public constant."
            )
        classes, num_classes = tuple(names), len(names)
    if transform is not None and (size, channels) != (None, None):
        raise DataError("transform= with size= or channels=", "one way to do it", "Let the transform do all.")
    wanted_channels, wanted_size = checked_channels(channels), checked_size(size)

    def usual(value: Any) -> Tensor:
        return _tensor(value, wanted_channels, wanted_size)

    rows = _Rows(dataset, example, label)
    own = transform or usual
    return from_torch(rows, num_classes=num_classes, classes=classes, name=name, mean=mean, std=std, transform=own)


class _Rows(Dataset[tuple[Any, Any]]):
    """(example, label) of each row."""

    def __init__(self, dataset: Any, example: str, label: str) -> None:
        self._dataset, self._example, self._label = dataset, example, label

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        row = self._dataset[index]
        return row[self._example], row[self._label]


def _tensor(value: Any, channels: int | None, size: tuple[int, int] | None) -> Tensor:
    """What a column holds as a floating point tensor; 8 bits become [0, 1]."""
    if hasattr(value, "convert"):  # a Pillow image
        value = from_picture(value, "an image", channels)
    elif not isinstance(value, Tensor):
        value = torch.from_numpy(np.array(value))
        if value.dtype == torch.float64:
            value = value.to(torch.float32)
    if value.dtype == torch.uint8:
        if value.dim() == 2:
            value = value.unsqueeze(0)
        elif value.dim() == 3 and value.shape[0] not in (1, 3):
            value = value.permute(2, 0, 1)
        value = value.to(torch.float32) / 255
    return fitted(value, channels, size) if value.dim() == 3 else value
