"""The synthetic data set S: what a federation hands on, as one safetensors file and one picture."""

from __future__ import annotations

import base64
import html
import io
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import TensorDataset

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.form import Form, forms
from private_distdd.data.image import ImageForm
from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError, DataError
from private_distdd.synthetic.mosaic import expand, require_partition

_log = logging.getLogger("private_distdd")
FORMAT = "private_distdd.synthetic/1"
_MOSAICS = "private_distdd.synthetic/2"  # a reader of 1 would take mosaics for whole images
_OTHERS = "private_distdd.synthetic/3"  # and would look for images in a table
_SOFT = "private_distdd.synthetic/4"  # with soft labels, of whole images, mosaics or a table
# What the header of each format may say beside the name and the classes: one of these.
_HEADERS: dict[str, list[set[str]]] = {
    FORMAT: [set()],
    _MOSAICS: [{"partition"}],
    _OTHERS: [{"form"}],
    _SOFT: [set(), {"partition"}, {"form"}],
}
_DTYPES = {"images": torch.float32, "labels": torch.int64, "mean": torch.float64, "std": torch.float64}
_SOFT_DTYPES = {"soft_labels": torch.float32}
_SHOWN = 1200  # pixels of the longer side of a picture in a notebook, at most
_SUM_TOLERANCE = 1e-4  # of a soft label's sum: float32 rounding of 65,536 classes is below it
LARGEST_PIXEL = 1e6  # of S, on the normalised scale: beyond it, it is no example of anything


def presentable(images: Tensor) -> Tensor:
    """Examples as a release can hold them, on the CPU: NaN becomes 0, and no value is beyond a magnitude of 10^6.

    What has been paid for is released whatever messages did to S; only a matching that diverged gets this far.
    """
    own = images.detach().cpu()
    shown = own.nan_to_num(0.0).clamp(-LARGEST_PIXEL, LARGEST_PIXEL)
    if not torch.equal(own, shown):
        _log.warning("S diverged: NaN and values beyond %g are cut, and of no use", LARGEST_PIXEL)
    return shown


class SyntheticDataset(ImageDataset):
    """`ipc` synthetic examples of every class, in class order; a torch Dataset of (float32 [*shape], int).

    They are images [C, H, W] or rows of a table [features], as `info.shape` says.  With a partition l above 1 every
    stored image is a mosaic of l x l smaller ones.  The data set then yields, and `len` counts, what is trained on:
    each part enlarged, classes * ipc * l^2 examples.

    Args:
        images: floating point [classes * ipc, *info.shape], on the normalised scale, finite.
        labels: integers [classes * ipc]: 0 `ipc` times, then 1, and so on.
        info: of the data set that S stands for, with the public normalisation constants.
        partition: l, parts of an image in each direction; divides height and width; 1 for tables.
        soft_labels: floating point [classes * ipc * l^2, classes], a distribution over the classes for every example
            that the data set yields, in that order: finite, at least 0, each row's sum 1 within 10^-4.  None without.

    Attributes:
        images: float32 [classes * ipc, *info.shape] as stored, detached, on the CPU.
        labels: int64 [classes * ipc].
        soft_labels: float32 [len(self), classes], or None; iteration yields `labels`, and `soft` these.
        ipc: stored examples per class, at least 1.

    Raises:
        DataError: as `ImageDataset`, classes that are not all there in equal number and in order, or soft labels that
            are not as above.
        ConfigurationError: see `require_partition`.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        info: DatasetInfo,
        partition: int = 1,
        soft_labels: Tensor | None = None,
    ) -> None:
        super().__init__(images, labels, info)
        self.partition = require_partition(partition, info.shape)
        self.ipc = len(self.labels) // info.num_classes
        if self.ipc < 1 or not torch.equal(self.labels, torch.arange(info.num_classes).repeat_interleave(self.ipc)):
            raise DataError(
                f"{len(self.labels)} synthetic labels that are not in class order, equally many a class",
                f"each of the {info.num_classes} classes ipc >= 1 times, class 0 first",
                "Build labels with torch.arange(num_classes).repeat_interleave(ipc).",
            )
        self.soft_labels = None if soft_labels is None else _distributions(soft_labels, len(self), info.num_classes)

    def __repr__(self) -> str:
        more = f", mosaics of {self.partition} x {self.partition}" if self.partition > 1 else ""
        more += ", soft labels" if self.soft_labels is not None else ""
        return f"{super().__repr__()[:-1]}, {self.ipc} a class{more})"

    def __len__(self) -> int:
        return len(self.labels) * self.partition**2

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        image, part = divmod(index % len(self), self.partition**2)
        return expand(self.images[image : image + 1], self.partition)[part], int(self.labels[image])

    def expanded(self) -> SyntheticDataset:
        """Everything that iteration yields, in memory and with its soft labels, partition 1: what is trained on."""
        labels = self.labels.repeat_interleave(self.partition**2)
        images = expand(self.images, self.partition).contiguous()
        return SyntheticDataset(images, labels, self.info, soft_labels=self.soft_labels)

    def soft(self) -> TensorDataset:
        """The same examples in the same order with their soft labels, in memory: (float32 [*shape], float32 [classes]).

        `torch.nn.functional.cross_entropy` takes such labels as they are.

        Raises:
            ConfigurationError: there are none.
        """
        return TensorDataset(self.expanded().images, self.require_soft_labels())

    def targets(self, soft_weight: float) -> Tensor:
        """What a cross-entropy on `expanded` is to, in its order: int64 [n], or float32 [n, classes] with soft labels.

        Args:
            soft_weight: share of the soft labels in it, in [0, 1].

        Raises:
            ConfigurationError: they have a share, and there are none.
        """
        labels = self.labels.repeat_interleave(self.partition**2)
        if not soft_weight:
            return labels
        hard = F.one_hot(labels, self.info.num_classes)
        return (1 - soft_weight) * hard + soft_weight * self.require_soft_labels()

    def require_soft_labels(self) -> Tensor:
        """`soft_labels`, where there are any.

        Raises:
            ConfigurationError: there are none.
        """
        if self.soft_labels is None:
            raise ConfigurationError(
                "soft labels of a synthetic set that has none",
                "hard labels, which iteration yields",
                "Train on the hard labels, or take a release whose card says soft_labels.",
            )
        return self.soft_labels

    def save(self, path: str | Path) -> None:
        """Write everything to one safetensors file at `path`; nothing is pickled, nothing is lost in rounding."""
        info = self.info
        tensors = {
            "images": self.images,
            "labels": self.labels,
            "mean": torch.tensor(info.mean, dtype=torch.float64),
            "std": torch.tensor(info.std, dtype=torch.float64),
        }
        # One key: safetensors writes several in random order, and equal sets shall have equal hashes.
        header: dict[str, Any] = {"format": FORMAT, "name": info.name, "num_classes": info.num_classes}
        if self.partition > 1:
            header |= {"format": _MOSAICS, "partition": self.partition}
        if info.form.name != ImageForm.name:
            header |= {"format": _OTHERS, "form": info.form.name}
        if self.soft_labels is not None:
            header |= {"format": _SOFT}
            tensors |= {"soft_labels": self.soft_labels}
        if info.classes:  # for people: a reader that knows nothing of names reads all else
            header |= {"classes": list(info.classes)}
        save_file(tensors, path, {"json": json.dumps(header, sort_keys=True)})

    @classmethod
    def load(cls, path: str | Path) -> SyntheticDataset:
        """The data set that `save` wrote, bit for bit.

        Raises:
            DataError: no such file, not a file of ours, or contents that are not as the class says.
        """
        remedy = "Take the file from the release again."
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {}).get("json", "{}"))
                tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no __iter__
        except (OSError, SafetensorError, json.JSONDecodeError) as error:
            raise DataError(f"{str(path)!r}: {error}", "a readable safetensors file", remedy) from error
        types = {key: tensor.dtype for key, tensor in tensors.items()}
        form = _form_of(header)
        if form is None or types != _DTYPES | (_SOFT_DTYPES if header["format"] == _SOFT else {}):
            names = " or ".join(repr(form.name) for form in forms() if form is not ImageForm)
            raise DataError(
                f"{str(path)!r} with header {header!r} and tensors {types}",
                f"format {FORMAT!r}, {_MOSAICS!r} with a partition or {_OTHERS!r} with form {names}, and tensors "
                f"{_DTYPES}; or {_SOFT!r} with {_SOFT_DTYPES} beside them",
                remedy,
            )
        images, labels, mean, std = (tensors[key] for key in _DTYPES)
        if images.dim() != 1 + form.rank or mean.dim() != 1 or std.dim() != 1:
            raise DataError(
                f"{str(path)!r}: images {list(images.shape)}, mean {list(mean.shape)}, std {list(std.shape)}",
                "[n, C, H, W], [C] and [C]" if form is ImageForm else "[n, features], [features] and [features]",
                remedy,
            )
        info = DatasetInfo(
            name=header.get("name", ""),
            num_classes=header.get("num_classes", 0),
            shape=tuple(images.shape[1:]),
            mean=tuple(mean.tolist()),
            std=tuple(std.tolist()),
            classes=header.get("classes", ()),
        )
        try:
            return cls(images, labels, info, header.get("partition", 1), tensors.get("soft_labels"))
        except ConfigurationError as error:
            raise DataError(f"{str(path)!r}: {error}", "a partition of its images", remedy) from error

    def grid(self) -> NDArray[np.uint8]:
        """A picture of S, uint8 [height, width, 3]: its images, one row a class, or a table's scatter plot.

        Where the classes have names, they stand on the left of the images' rows.
        """
        info = self.info
        picture = info.form.picture(self.images, info.num_classes, info.denormalise)
        return info.form.named(picture, info.classes) if info.classes else picture

    def picture_html(self) -> str:
        """`grid` as an image in HTML that needs nothing else, of at most 1,200 x 1,200 pixels."""
        from PIL import Image

        picture, file = Image.fromarray(self.grid()), io.BytesIO()
        picture.thumbnail((_SHOWN, _SHOWN))
        picture.save(file, format="PNG")
        return (
            f'<img alt="the images of S, one row a class" style="max-width:min(100%,480px);height:auto;'
            f'image-rendering:pixelated" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'
        )

    def _repr_html_(self) -> str:
        """For notebooks."""
        return f"<p>{html.escape(repr(self))}</p>{self.picture_html()}"

    def preview(self, path: str | Path) -> None:
        """Write `grid` as a PNG file at `path`."""
        from PIL import Image

        Image.fromarray(self.grid()).save(path, format="PNG")


def _form_of(header: object) -> type[Form] | None:
    """The form of the examples that a file's header speaks of; None where it speaks of none, or against itself."""
    if not isinstance(header, dict) or not isinstance(header.get("format"), str):
        return None
    if set(header) & {"partition", "form"} not in _HEADERS.get(header["format"], []):
        return None
    known = {form.name: form for form in forms() if form is not ImageForm}
    return known.get(str(header["form"])) if "form" in header else ImageForm


def _distributions(soft_labels: Tensor, count: int, num_classes: int) -> Tensor:
    """Soft labels as float32 [count, num_classes] on the CPU.

    Raises:
        DataError: another shape or kind, or a row that is no distribution.
    """
    allowed = f"a floating point tensor [{count}, {num_classes}], a row for every example that the data set yields"
    if not isinstance(soft_labels, Tensor) or not soft_labels.is_floating_point():
        found = soft_labels.dtype if isinstance(soft_labels, Tensor) else type(soft_labels).__name__
        raise DataError(f"soft labels are {found}", allowed, "Give probabilities, such as logits.softmax(dim=1).")
    if soft_labels.shape != (count, num_classes):
        raise DataError(
            f"soft labels of shape {list(soft_labels.shape)}", allowed, "With a partition l give l^2 rows an image."
        )
    rows = soft_labels.detach().to("cpu", torch.float32).contiguous()
    off = (rows.sum(dim=1, dtype=torch.float64) - 1).abs()
    wrong = (~((rows >= 0).all(dim=1) & (off <= _SUM_TOLERANCE))).nonzero()  # a NaN or an infinity is neither
    if len(wrong):
        row = rows[int(wrong[0])]
        raise DataError(
            f"soft label of example {int(wrong[0])} has least value {float(row.min()):g} and sum {float(row.sum()):g}",
            f"finite values of at least 0 with sum 1 within {_SUM_TOLERANCE:g}",
            "Give probabilities, such as logits.softmax(dim=1).",
        )
    return rows
