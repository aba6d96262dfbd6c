"""Examples in memory: one validated, normalised form for every source."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from private_distdd.data.form import Shape, form_of, forms
from private_distdd.data.info import DatasetInfo
from private_distdd.errors import DataError


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Normalised examples with their labels, in memory; yields (example float32 [*shape], label int).

    An example is an image [C, H, W] or a row of a table [features], as `info.shape` says; the class and its attribute
    `images` have their names from the first kind.

    Args:
        images: floating point [n, *info.shape], already normalised with `info`'s constants, finite; n may be 0.
        labels: integers [n], in 0 ... info.num_classes - 1.
        info: what is public; `info.shape` must be the examples' shape.

    Attributes:
        images: float32 [n, *info.shape], contiguous, on the CPU (shares memory with the argument where it can).
        labels: int64 [n].

    Raises:
        DataError: shapes, types, values or labels are not as above.
    """

    def __init__(self, images: Tensor, labels: Tensor, info: DatasetInfo) -> None:
        self.images = checked_examples(images, info.shape)
        self.labels = check_labels(labels, info.num_classes)
        self.info = info
        if len(self.images) != len(self.labels):
            many = info.form.many
            raise DataError(
                f"{len(self.images)} {many} and {len(self.labels)} labels",
                f"one label for each of the {many}",
                "Pair them up.",
            )

    def __repr__(self) -> str:
        info = self.info
        return (
            f"{type(self).__name__}({info.name!r}: {len(self.labels)} {info.form.many} ({info.form.words}), "
            f"{info.num_classes} classes)"
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


def checked_examples(examples: Tensor, shape: Shape | None = None) -> Tensor:
    """`examples` as float32 [n, *shape], contiguous, on the CPU.

    Args:
        examples: floating point, [n, C, H, W] or [n, features], finite.
        shape: that one example must have; None for any that a form has.

    Raises:
        DataError: they are not as above.
    """
    wanted = "[n, C, H, W] or [n, features]" if shape is None else f"[n, {', '.join(map(str, shape))}]"
    if not isinstance(examples, Tensor) or not examples.is_floating_point():
        found = examples.dtype if isinstance(examples, Tensor) else type(examples).__name__
        raise DataError(f"examples are {found}", f"a floating point tensor {wanted}", "Scale 8-bit pixels to [0, 1].")
    ranks = [1 + (form.rank if shape is None else len(shape)) for form in forms()]
    if examples.dim() not in ranks or shape not in (None, tuple(examples.shape[1:])):
        raise DataError(f"examples of shape {list(examples.shape)}", wanted, "Bring all examples to this shape.")
    examples = examples.detach().to("cpu", torch.float32).contiguous()
    broken = (~torch.isfinite(examples)).flatten(1).any(dim=1).nonzero()
    if len(broken):
        form = form_of(examples.shape[1:])
        raise DataError(
            f"{form.one} {int(broken[0])} has a NaN or infinite {form.value}",
            f"finite {form.value}s",
            "Repair or drop it.",
        )
    return examples


def materialise(dataset: Dataset[Any], shape: Shape | None = None) -> tuple[Tensor, Tensor]:
    """A map-style data set as two tensors: examples float32 [n, *shape] and labels int64 [n].

    `ImageDataset` and any `Subset` of one are read without a loop over examples; everything else is asked for one
    example after another, once.

    Args:
        dataset: yields (float tensor [C, H, W] or [features], int or integer tensor without dimensions); may be empty.
        shape: what the examples must have; needed where the data set is empty.

    Raises:
        DataError: not map-style, labels that are not integers (the range is `check_labels`'s), examples of different
            shapes or of one that no form has, NaN or infinite values.
    """
    examples, labels = _gather(dataset, shape)
    return checked_examples(examples, shape), labels


def carried_info(dataset: Dataset[Any]) -> DatasetInfo | None:
    """The public constants that a data set, or what it is a `Subset` of, carries as `.info`; None without."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    info = getattr(dataset, "info", None)
    return info if isinstance(info, DatasetInfo) else None


def _gather(dataset: Dataset[Any], shape: Shape | None) -> tuple[Tensor, Tensor]:
    # By type, not by attribute: an unknown class with `.images` may transform them before it yields them.
    if isinstance(dataset, ImageDataset) and type(dataset).__getitem__ is ImageDataset.__getitem__:
        return dataset.images, dataset.labels
    if type(dataset) is Subset and isinstance(dataset.dataset, ImageDataset | Subset) and len(dataset):
        examples, labels = _gather(dataset.dataset, shape)
        chosen = torch.as_tensor(dataset.indices, dtype=torch.int64)
        return examples[chosen], labels[chosen]
    if isinstance(dataset, DataLoader):
        raise DataError("a DataLoader", "a map-style data set", "Pass what it loads from: loader.dataset.")
    try:
        size = len(dataset)  # type: ignore[arg-type]  # torch's Dataset promises no __len__
    except TypeError as error:
        raise DataError(
            f"a {type(dataset).__name__} without a length", "a map-style data set", "Give it __len__ and __getitem__."
        ) from error
    seen: list[Tensor] = []
    labels_seen: list[int] = []
    for index in range(size):
        example, label = _example(dataset, index)
        first = seen[0].shape if seen else example.shape
        if example.shape != first:
            raise DataError(
                f"example {index} has shape {list(example.shape)}, example 0 {list(first)}",
                "one shape for all",
                "Bring them to one.",
            )
        seen.append(example)
        labels_seen.append(label)
    if not seen:
        if shape is None:
            raise DataError(
                "an empty data set of unknown shape", "shape=(C, H, W) or shape=(features,)", "Say the shape."
            )
        return torch.empty((0, *shape)), torch.empty(0, dtype=torch.int64)
    return torch.stack(seen), torch.tensor(labels_seen, dtype=torch.int64)


def _example(dataset: Dataset[Any], index: int) -> tuple[Tensor, int]:
    pair = dataset[index]
    if not isinstance(pair, Sequence) or len(pair) != 2:
        raise DataError(f"example {index} is a {type(pair).__name__}", "(example, label)", "Yield pairs.")
    example, label = pair
    if not isinstance(example, Tensor) or not example.is_floating_point():
        found = example.dtype if isinstance(example, Tensor) else type(example).__name__
        raise DataError(
            f"example {index} is {found}",
            "a floating point tensor [C, H, W] or [features]",
            "For images add torchvision's ToTensor().",
        )
    # operator.index alone would take True for 1 and a tensor [1] for a number.
    is_odd = isinstance(label, bool) or (isinstance(label, Tensor) and (label.dtype == torch.bool or label.dim() != 0))
    try:
        if not is_odd:
            return example.detach().to("cpu", torch.float32), operator.index(label)
    except TypeError:
        pass
    found, remedy = type(label).__name__, "Number the classes from 0."
    if isinstance(label, Tensor):
        found = f"tensor of {label.dtype} {list(label.shape)}"
        if label.dim():
            remedy = "Of a one-hot label take label.argmax(), of a tensor [1] label.item()."
    raise DataError(f"label of example {index} is a {found}", "an int, or an integer tensor without dimensions", remedy)


def _is_integer_type(dtype: torch.dtype) -> bool:
    return not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)
