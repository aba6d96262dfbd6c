"""The values of a source, checked, and normalised with public constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from private_distdd.data.dataset import ImageDataset, check_labels, checked_examples, materialise
from private_distdd.data.form import Shape, form_of
from private_distdd.data.info import Constant, DatasetInfo, constants
from private_distdd.errors import DataError


def from_torch(
    dataset: Dataset[Any],
    *,
    num_classes: int,
    name: str = "own",
    mean: Constant | None = None,
    std: Constant | None = None,
    shape: Shape | None = None,
    classes: Sequence[str] = (),
    transform: Callable[[Any], Tensor] | None = None,
) -> ImageDataset:
    """Any map-style torch data set of (float tensor, int label), normalised with public constants.

    Args:
        dataset: the examples, images [C, H, W] of pixels in [0, 1] or rows [features] of any finite numbers; read once.
        num_classes: see `DatasetInfo`.
        name: see `DatasetInfo`.
        mean: see `DatasetInfo`; never computed from the data.
        std: see `DatasetInfo`; never computed from the data.
        shape: of one example; needed where the data set is empty.
        classes: see `DatasetInfo`.
        transform: makes an example as above of what the data set yields, such as a picture: for instance torchvision's
            `v2.Compose([v2.ToImage(), v2.Resize((64, 64)), v2.ToDtype(torch.float32, scale=True)])`.  It is called once
            for each example, before anything of the library sees it, so that a random one is drawn once, and must look
            at this example and public numbers alone (A2, A6).

    Raises:
        DataError: as `materialise`, `check_labels` and `DatasetInfo`, or a pixel outside [0, 1].
    """
    examples, labels = materialise(dataset if transform is None else _Transformed(dataset, transform), shape)
    given = {field: constants(value) for field, value in (("mean", mean), ("std", std)) if value is not None}
    info = DatasetInfo(name, num_classes, tuple(examples.shape[1:]), classes=tuple(classes), **given)
    return ImageDataset(info.normalise(within_bounds(examples, name)), labels, info)


class _Transformed(Dataset[tuple[Tensor, Any]]):
    """A data set's examples, each of them transformed."""

    def __init__(self, dataset: Dataset[Any], transform: Callable[[Any], Tensor]) -> None:
        self._dataset, self._transform = dataset, transform

    def __len__(self) -> int:
        return len(self._dataset)  # type: ignore[arg-type]  # torch's Dataset promises no __len__

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        example, label = self._dataset[index]
        return self._transform(example), label


def from_pixels(pixels: Tensor, labels: Tensor, info: DatasetInfo) -> ImageDataset:
    """uint8 or [0, 1] float pixels [n, C, H, W], normalised."""
    if tuple(pixels.shape[1:]) != info.shape:
        raise DataError(
            f"{info.name}: test images of shape {list(pixels.shape[1:])}", f"{list(info.shape)}", "Resize them."
        )
    if pixels.dtype == torch.uint8:
        unit = pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    else:
        unit = within_bounds(pixels, info.name)
    return ImageDataset(info.normalise(unit), labels, info)


def within_bounds(examples: Tensor, name: str) -> Tensor:
    """`checked_examples`, whose values lie where their form says.

    Raises:
        DataError: one does not.
    """
    examples = checked_examples(examples)
    form = form_of(examples.shape[1:])
    if form.bounds is None:
        return examples
    least, most = form.bounds
    outside = ((examples < least) | (examples > most)).flatten(1).any(dim=1).nonzero()
    if len(outside):
        raise DataError(
            f"{name}: {form.one} {int(outside[0])} has a {form.value} outside [{least:g}, {most:g}]",
            f"floating point {form.value}s in [{least:g}, {most:g}]",
            "Divide by the largest value the format allows (255 for 8 bits).",
        )
    return examples


def split_off_test(examples: Tensor, labels: Tensor, info: DatasetInfo) -> tuple[ImageDataset, ImageDataset]:
    """(train, test) of examples that come as one: of each class every fourth, in the order given, is the test part.

    Args:
        examples: float [n, *info.shape], of the source's scale.
        labels: int64 [n].
        info: what is public.

    Raises:
        DataError: as `ImageDataset`.
    """
    labels = check_labels(labels, info.num_classes)
    order = torch.argsort(labels, stable=True)
    counts = torch.bincount(labels, minlength=info.num_classes)
    place = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[order]]  # among its class, from 0
    is_test = torch.zeros(len(labels), dtype=torch.bool)
    is_test[order[place % 4 == 3]] = True
    train, test = (ImageDataset(info.normalise(examples[part]), labels[part], info) for part in (~is_test, is_test))
    return train, test
