"""The synthetic data set S: what a federation hands on, as one safetensors file and one picture."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo, image_shape_of
from private_distdd.errors import ConfigurationError, DataError
from private_distdd.synthetic.mosaic import expand, require_partition

_log = logging.getLogger("private_distdd")
FORMAT = "private_distdd.synthetic/1"
_MOSAICS = "private_distdd.synthetic/2"  # a reader of 1 would take mosaics for whole images
_DTYPES = {"images": torch.float32, "labels": torch.int64, "mean": torch.float64, "std": torch.float64}
LARGEST_PIXEL = 1e6  # of S, on the normalised scale: beyond it, it is no image
_GAP = 2  # pixels between the pictures of the preview
_SHOWN = 48  # a picture of the preview is at least this wide and high, in pixels
_LARGEST_PICTURE = 1 << 26  # pixels up to which images are enlarged


def presentable(images: Tensor) -> Tensor:
    """Images as a release can hold them, on the CPU: NaN becomes 0, and no value is beyond a magnitude of 10^6.

    What has been paid for is released whatever messages did to S; only a matching that diverged gets this far.
    """
    own = images.detach().cpu()
    shown = own.nan_to_num(0.0).clamp(-LARGEST_PIXEL, LARGEST_PIXEL)
    if not torch.equal(own, shown):
        _log.warning("S diverged: NaN and values beyond %g are cut, and of no use", LARGEST_PIXEL)
    return shown


class SyntheticDataset(ImageDataset):
    """`ipc` synthetic images of every class, in class order; a torch Dataset of (float32 [C, H, W], int).

    With a partition l above 1 every stored image is a mosaic of l x l smaller ones.  The data set then yields, and
    `len` counts, what is trained on: each part enlarged, classes * ipc * l^2 examples.

    Args:
        images: floating point [classes * ipc, C, H, W], on the normalised scale, finite.
        labels: integers [classes * ipc]: 0 `ipc` times, then 1, and so on.
        info: of the data set that S stands for, with the public normalisation constants.
        partition: l, parts of an image in each direction; divides height and width.

    Attributes:
        images: float32 [classes * ipc, C, H, W] as stored, detached, on the CPU.
        labels: int64 [classes * ipc].
        ipc: stored images per class, at least 1.

    Raises:
        DataError: as `ImageDataset`, or classes that are not all there in equal number and in order.
        ConfigurationError: see `require_partition`.
    """

    def __init__(self, images: Tensor, labels: Tensor, info: DatasetInfo, partition: int = 1) -> None:
        super().__init__(images, labels, info)
        self.partition = require_partition(partition, info.shape)
        self.ipc = len(self.labels) // info.num_classes
        if self.ipc < 1 or not torch.equal(self.labels, torch.arange(info.num_classes).repeat_interleave(self.ipc)):
            raise DataError(
                f"{len(self.labels)} synthetic labels that are not in class order, equally many a class",
                f"each of the {info.num_classes} classes ipc >= 1 times, class 0 first",
                "Build labels with torch.arange(num_classes).repeat_interleave(ipc).",
            )

    def __len__(self) -> int:
        return len(self.labels) * self.partition**2

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        image, part = divmod(index % len(self), self.partition**2)
        return expand(self.images[image : image + 1], self.partition)[part], int(self.labels[image])

    def expanded(self) -> ImageDataset:
        """Everything that iteration yields, in memory: what networks are trained on."""
        labels = self.labels.repeat_interleave(self.partition**2)
        return ImageDataset(expand(self.images, self.partition).contiguous(), labels, self.info)

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
        form = (header.get("format"), "partition" in header) if isinstance(header, dict) else None
        if form not in ((FORMAT, False), (_MOSAICS, True)) or types != _DTYPES:
            raise DataError(
                f"{str(path)!r} with header {header!r} and tensors {types}",
                f"format {FORMAT!r}, or {_MOSAICS!r} with a partition, and tensors {_DTYPES}",
                remedy,
            )
        images, labels, mean, std = (tensors[key] for key in _DTYPES)
        if images.dim() != 4 or mean.dim() != 1 or std.dim() != 1:
            raise DataError(
                f"{str(path)!r}: images {list(images.shape)}, mean {list(mean.shape)}, std {list(std.shape)}",
                "[n, C, H, W], [C] and [C]",
                remedy,
            )
        info = DatasetInfo(
            name=header.get("name", ""),
            num_classes=header.get("num_classes", 0),
            shape=image_shape_of(images),
            mean=tuple(mean.tolist()),
            std=tuple(std.tolist()),
        )
        try:
            return cls(images, labels, info, header.get("partition", 1))
        except ConfigurationError as error:
            raise DataError(f"{str(path)!r}: {error}", "a partition of its images", remedy) from error

    def grid(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """A picture of S, uint8 [height, width, 3]: one row a class, de-normalised, clamped to [0, 1].

        Small images are enlarged by a whole factor with nearest neighbour.  With 3 channels they are red, green, blue;
        with any other number their mean is shown in grey.
        """
        pixels = self.info.denormalise(self.images).clamp(0, 1).mul(255).round().to(torch.uint8)
        channels, height, width = self.info.shape
        if channels != 3:
            pixels = pixels.to(torch.float32).mean(dim=1, keepdim=True).round().to(torch.uint8).expand(-1, 3, -1, -1)
        # Thin images would become a picture a thousand times the size of their file.
        room = math.isqrt(_LARGEST_PICTURE // (len(pixels) * height * width))
        factor = max(1, min(-(-_SHOWN // min(height, width)), room))
        pixels = pixels.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
        pixels = torch.nn.functional.pad(pixels, (0, _GAP, 0, _GAP), value=255)
        rows = pixels.reshape(self.info.num_classes, self.ipc, *pixels.shape[1:])  # [classes, ipc, 3, height, width]
        picture = rows.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)[:-_GAP, :-_GAP]
        grid: np.ndarray[Any, np.dtype[np.uint8]] = picture.contiguous().numpy()
        return grid

    def preview(self, path: str | Path) -> None:
        """Write `grid` as a PNG file at `path`."""
        from PIL import Image

        Image.fromarray(self.grid()).save(path, format="PNG")
