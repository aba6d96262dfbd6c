"""Mosaics: stored images that are cut into parts, each of them enlarged (partition and expand)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from private_distdd.errors import ConfigurationError


def require_partition(partition: int, shape: tuple[int, ...]) -> int:
    """`partition`, if images of this shape can be cut into partition x partition equal parts.

    Raises:
        ConfigurationError: it is no whole number of at least 1, or does not divide height and width.
    """
    whole = isinstance(partition, int) and not isinstance(partition, bool) and partition >= 1
    if not whole or any(side % partition for side in shape[1:]):
        raise ConfigurationError(
            f"partition = {partition!r} for images of {' x '.join(map(str, shape[1:]))}",
            "a whole number of at least 1 that divides height and width",
            "1 leaves images whole; 2 makes four of each.",
        )
    return partition


def expand(images: Tensor, partition: int) -> Tensor:
    """Cut every image into partition x partition parts and enlarge each to the whole's size; differentiable.

    Args:
        images: float [n, C, H, W].
        partition: divides H and W; 1 leaves the images as they are.

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
    """The other way: every partition^2 images, each averaged down, side by side as one; float [n, C, H, W]."""
    count, channels, height, width = images.shape
    parts = F.avg_pool2d(images, partition).reshape(
        count // partition**2, partition, partition, channels, height // partition, width // partition
    )
    return parts.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, height, width)
