"""Public examples that stand in for a client's in attacks."""

from __future__ import annotations

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.data.load import load_dataset


def digits_like(info: DatasetInfo) -> ImageDataset:
    """scikit-learn's digits, in the form of `info`, with at most its classes.

    Images: 8 x 8, with the channels and the normalisation of `info`.  Rows of a table, of shape [features]: the 64
    pixels as columns, normalised as digits are, since columns of another table have constants of their own.
    """
    digits = load_dataset("digits")[0]
    if len(info.shape) == 1:
        return _as_table(digits, info.num_classes)
    channels = info.shape[0]
    own = DatasetInfo("digits", info.num_classes, (channels, *digits.info.shape[1:]), info.mean, info.std)
    kept = digits.labels < info.num_classes
    pixels = digits.info.denormalise(digits.images[kept]).expand(-1, channels, -1, -1)
    return ImageDataset(own.normalise(pixels), digits.labels[kept], own)


def _as_table(digits: ImageDataset, num_classes: int) -> ImageDataset:
    kept = digits.labels < num_classes
    rows = digits.images[kept].flatten(1)
    own = DatasetInfo("digits", num_classes, (rows.shape[1],), digits.info.mean, digits.info.std)
    return ImageDataset(rows, digits.labels[kept], own)


def parted(dataset: ImageDataset, count: int) -> tuple[ImageDataset, ImageDataset]:
    """The first `count` examples and up to 400 of the others: attacked, and public."""
    first, others = slice(count), slice(count, count + 400)
    attacked, public = (
        ImageDataset(dataset.images[part], dataset.labels[part], dataset.info) for part in (first, others)
    )
    return attacked, public
