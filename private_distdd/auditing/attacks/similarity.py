"""How alike two pictures are: PSNR and SSIM."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from private_distdd.errors import DataError

BEST_PSNR = 120.0  # dB; two images that agree to float32 rounding have no larger one


def psnr(images: Tensor, references: Tensor) -> Tensor:
    """Peak signal-to-noise ratio -10 log10(mean squared error) of each image, in dB; at most 120.

    Args:
        images, references: float [n, C, H, W], in [0, 1].

    Returns:
        float64 [n].

    Raises:
        DataError: the shapes differ, or there are not four dimensions.
    """
    images, references = same_shape(images, references)
    errors = (images - references).square().flatten(1).mean(dim=1)
    return -10 * torch.log10(errors.clamp(min=10 ** (-BEST_PSNR / 10)))


def ssim(images: Tensor, references: Tensor) -> Tensor:
    """Structural similarity of each image, in [-1, 1]: the mean over all windows that fit, and over channels.

    Windows are Gaussian, of width 11 and standard deviation 1.5 pixels; smaller images have the largest odd width that
    fits.  K1 = .01, K2 = .03, dynamic range 1.

    Args:
        images, references: float [n, C, H, W], in [0, 1].

    Returns:
        float64 [n].

    Raises:
        DataError: the shapes differ, or there are not four dimensions.

    Source: Wang, Bovik, Sheikh and Simoncelli 2004.
    """
    images, references = same_shape(images, references)
    width = min(11, *(side - 1 + side % 2 for side in images.shape[2:]))
    ticks = torch.arange(width, dtype=images.dtype) - width // 2
    line = torch.exp(-ticks.square() / (2 * 1.5**2))
    window = (line[:, None] * line / line.sum() ** 2)[None, None]

    def local(values: Tensor) -> Tensor:
        return F.conv2d(values.flatten(0, 1)[:, None], window)

    mean, other = local(images), local(references)
    variance, other_variance = local(images.square()) - mean.square(), local(references.square()) - other.square()
    covariance = local(images * references) - mean * other
    c1, c2 = 0.01**2, 0.03**2
    likeness = (2 * mean * other + c1) * (2 * covariance + c2)
    likeness = likeness / ((mean.square() + other.square() + c1) * (variance + other_variance + c2))
    return likeness.reshape(len(images), -1).mean(dim=1)


def same_shape(images: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64."""
    if images.dim() != 4 or images.shape != references.shape or not images.numel():
        raise DataError(
            f"images {list(images.shape)} and references {list(references.shape)}",
            "two tensors [n, C, H, W] of one shape",
            "Compare each image with its own reference.",
        )
    return images.to(torch.float64), references.to(torch.float64)
