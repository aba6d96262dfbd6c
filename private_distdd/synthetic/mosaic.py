"""Mosaics: stored images that are cut into parts, each of them enlarged (partition and expand)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from private_distdd.data.form import Shape, form_of
from private_distdd.errors import ConfigurationError
from private_distdd.validate import is_whole


def require_partition(partition: int, shape: Shape) -> int:
    """`partition`, if examples of this shape can be cut into partition x partition equal parts.

    Raises:
        ConfigurationError: it is no whole number of at least 1, does not divide height and width, or is above 1 for a
            table.
    """
    form = form_of(shape)
    sides = shape[1:] if form.spatial else ()
    if not is_whole(partition) or partition < 1 or any(side % partition for side in sides):
        raise ConfigurationError(
            f"partition = {partition!r} for {form.many} of {' x '.join(map(str, sides)) or form.words}",
            "a whole number of at least 1 that divides height and width",
            "1 leaves examples whole; 2 makes four of each image.",
        )
    if partition > 1:
        form.require_spatial(f"partition = {partition}", "1")
    return partition


def expand(images: Tensor, partition: int) -> Tensor:
    """Cut every image into partition x partition parts and enlarge each to the whole's size; differentiable.

    Args:
        images: float [n, C, H, W], or [n, *shape] of any form where partition is 1.
        partition: divides H and W; 1 leaves the examples as they are.

    Returns:
        float [n * partition^2, C, H, W]: the parts of one image beside each other, row by row; bilinear.

    Source: Zhao, Li, Wang and Yu 2023 (IDM), "partitioning and expansion augmentation".
    """
    if partition == 1:
        return images
    count, channels, height, width = images.shape
    parts = images.reshape(count, channels, partition, height // partition, partition, width // partition)
    parts = parts.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, height // partition, width // partition)
    return F.interpolate(parts, size=(height, width), mode="bilinear")


def mosaic(images: Tensor, partition: int) -> Tensor:
    """The other way: every partition^2 images, each averaged down, side by side as one; float [n, C, H, W].

    With partition 1 examples of any form, which stay as they are.
    """
    if partition == 1:
        return images
    count, channels, height, width = images.shape
    parts = F.avg_pool2d(images, partition).reshape(
        count // partition**2, partition, partition, channels, height // partition, width // partition
    )
    return parts.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, height, width)
