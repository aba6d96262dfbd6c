"""Examples in memory: one validated, normalised form for every source."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from private_distdd.data.info import DatasetInfo, ImageShape, PerChannel, image_shape_of, per_channel
from private_distdd.errors import DataError


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Normalised images with their labels, in memory; yields (image float32 [C, H, W], label int).

    Args:
        images: floating point [n, C, H, W], already normalised with `info`'s constants, finite; n may be 0.
        labels: integers [n], in 0 ... info.num_classes - 1.
        info: what is public; `info.shape` must be the images' shape.

    Attributes:
        images: float32 [n, C, H, W], contiguous, on the CPU (shares memory with the argument where it can).
        labels: int64 [n].

    Raises:
        DataError: shapes, types, pixels or labels are not as above.
    """

    def __init__(self, images: Tensor, labels: Tensor, info: DatasetInfo) -> None:
        self.images = _checked_images(images, info.shape)
        self.labels = check_labels(labels, info.num_classes)
        self.info = info
        if len(self.images) != len(self.labels):
            raise DataError(
                f"{len(self.images)} images and {len(self.labels)} labels", "one label an image", "Pair them up."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])


def check_labels(labels: Tensor, num_classes: int) -> Tensor:
    """`labels` as int64 [n] on the CPU.

    Raises:
        DataError: not a one-dimensional tensor of integers, or one outside 0 ... num_classes - 1.
    """
    allowed, remedy = f"a tensor [n] of integers 0 ... {num_classes - 1}", "Number the classes from 0."
    if not isinstance(labels, Tensor) or labels.dim() != 1 or not _is_integer_type(labels.dtype):
        found = f"{labels.dtype} {list(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise DataError(f"labels are {found}", allowed, remedy)
    labels = labels.detach().to("cpu", torch.int64)
    wrong = ((labels < 0) | (labels >= num_classes)).nonzero()
    if len(wrong):
        index = int(wrong[0])
        raise DataError(f"label {int(labels[index])} of example {index}", allowed, remedy)
    return labels


def materialise(dataset: Dataset[Any], shape: ImageShape | None = None) -> tuple[Tensor, Tensor]:
    """A map-style data set as two tensors: images float32 [n, C, H, W] and labels int64 [n].

    `ImageDataset` and any `Subset` of one are read without a loop over examples; everything else is asked for one
    example after another, once.

    Args:
        dataset: yields (float tensor [C, H, W], int or integer tensor without dimensions); may be empty.
        shape: what the images must have; needed where the data set is empty.

    Raises:
        DataError: not map-style, labels that are not integers (the range is `check_labels`'s), images of different
            shapes or not of rank 3, NaN or infinite pixels.
    """
    images, labels = _gather(dataset, shape)
    return _checked_images(images, shape), labels


def carried_info(dataset: Dataset[Any]) -> DatasetInfo | None:
    """The public constants that a data set, or what it is a `Subset` of, carries as `.info`; None without."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    info = getattr(dataset, "info", None)
    return info if isinstance(info, DatasetInfo) else None


def from_torch(
    dataset: Dataset[Any],
    *,
    num_classes: int,
    name: str = "own",
    mean: PerChannel = 0.5,
    std: PerChannel = 0.5,
    shape: ImageShape | None = None,
) -> ImageDataset:
    """Any map-style torch data set of ([0, 1] float image [C, H, W], int label), normalised with public constants.

    Args:
        dataset: the examples; read once.
        num_classes: see `DatasetInfo`.
        name: see `DatasetInfo`.
        mean: see `DatasetInfo`.
        std: see `DatasetInfo`.
        shape: of the images; needed where the data set is empty.

    Raises:
        DataError: as `materialise`, `check_labels` and `DatasetInfo`, or a pixel outside [0, 1].
    """
    images, labels = materialise(dataset, shape)
    info = DatasetInfo(name, num_classes, image_shape_of(images), per_channel(mean), per_channel(std))
    return ImageDataset(info.normalise(_unit_interval(images, name)), labels, info)


def from_pixels(pixels: Tensor, labels: Tensor, info: DatasetInfo) -> ImageDataset:
    """uint8 or [0, 1] float pixels [n, C, H, W], normalised."""
    if image_shape_of(pixels) != info.shape:
        raise DataError(
            f"{info.name}: test images of shape {list(pixels.shape[1:])}", f"{list(info.shape)}", "Resize them."
        )
    if pixels.dtype == torch.uint8:
        unit = pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    else:
        unit = _unit_interval(pixels, info.name)
    return ImageDataset(info.normalise(unit), labels, info)


def _unit_interval(images: Tensor, name: str) -> Tensor:
    images = _checked_images(images, None)
    outside = ((images < 0) | (images > 1)).flatten(1).any(dim=1).nonzero()
    if len(outside):
        raise DataError(
            f"{name}: image {int(outside[0])} has a pixel outside [0, 1]",
            "floating point pixels in [0, 1]",
            "Divide by the largest value the format allows (255 for 8 bits).",
        )
    return images


def _gather(dataset: Dataset[Any], shape: ImageShape | None) -> tuple[Tensor, Tensor]:
    # By type, not by attribute: an unknown class with `.images` may transform them before it yields them.
    if isinstance(dataset, ImageDataset) and type(dataset).__getitem__ is ImageDataset.__getitem__:
        return dataset.images, dataset.labels
    if type(dataset) is Subset and isinstance(dataset.dataset, ImageDataset | Subset) and len(dataset):
        images, labels = _gather(dataset.dataset, shape)
        chosen = torch.as_tensor(dataset.indices, dtype=torch.int64)
        return images[chosen], labels[chosen]
    try:
        size = len(dataset)  # type: ignore[arg-type]  # torch's Dataset promises no __len__
    except TypeError as error:
        raise DataError(
            f"a {type(dataset).__name__} without a length", "a map-style data set", "Give it __len__ and __getitem__."
        ) from error
    images_seen: list[Tensor] = []
    labels_seen: list[int] = []
    for index in range(size):
        image, label = _example(dataset, index)
        first = images_seen[0].shape if images_seen else image.shape
        if image.shape != first:
            raise DataError(
                f"image {index} has shape {list(image.shape)}, image 0 {list(first)}", "one shape for all", "Resize."
            )
        images_seen.append(image)
        labels_seen.append(label)
    if not images_seen:
        if shape is None:
            raise DataError("an empty data set of unknown image shape", "shape=(C, H, W)", "Say the shape.")
        return torch.empty((0, *shape)), torch.empty(0, dtype=torch.int64)
    return torch.stack(images_seen), torch.tensor(labels_seen, dtype=torch.int64)


def _example(dataset: Dataset[Any], index: int) -> tuple[Tensor, int]:
    example = dataset[index]
    if not isinstance(example, Sequence) or len(example) != 2:
        raise DataError(f"example {index} is a {type(example).__name__}", "(image, label)", "Yield pairs.")
    image, label = example
    if not isinstance(image, Tensor) or not image.is_floating_point():
        found = image.dtype if isinstance(image, Tensor) else type(image).__name__
        raise DataError(
            f"image {index} is {found}", "a floating point tensor [C, H, W]", "Add torchvision's ToTensor()."
        )
    # operator.index alone would take True for 1 and a tensor [1] for a number.
    is_odd = isinstance(label, bool) or (isinstance(label, Tensor) and (label.dtype == torch.bool or label.dim() != 0))
    try:
        if not is_odd:
            return image.detach().to("cpu", torch.float32), operator.index(label)
    except TypeError:
        pass
    raise DataError(
        f"label of example {index} is a {label.dtype if isinstance(label, Tensor) else type(label).__name__}",
        "an int, or an integer tensor without dimensions",
        "Number the classes from 0.",
    )


def _checked_images(images: Tensor, shape: ImageShape | None) -> Tensor:
    """float32 [n, C, H, W], contiguous, on the CPU; of `shape` where one is given."""
    wanted = "[n, C, H, W]" if shape is None else f"[n, {', '.join(map(str, shape))}]"
    if not isinstance(images, Tensor) or not images.is_floating_point():
        found = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise DataError(f"images are {found}", f"a floating point tensor {wanted}", "Scale 8-bit pixels to [0, 1].")
    if images.dim() != 4 or shape not in (None, tuple(images.shape[1:])):
        raise DataError(f"images of shape {list(images.shape)}", wanted, "Bring all images to this shape.")
    images = images.detach().to("cpu", torch.float32).contiguous()
    broken = (~torch.isfinite(images)).flatten(1).any(dim=1).nonzero()
    if len(broken):
        raise DataError(f"image {int(broken[0])} has a NaN or infinite pixel", "finite pixels", "Repair or drop it.")
    return images


def _is_integer_type(dtype: torch.dtype) -> bool:
    return not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)
