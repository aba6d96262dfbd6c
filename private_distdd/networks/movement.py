"""Movements of images, drawn at random: rotation, scaling and shift."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_ROTATION, _SCALE, _SHIFT = math.radians(15), 1.2, 0.125  # at most: radians, factor, share of the side


def moved(images: Tensor, movement: Tensor, black: Tensor) -> Tensor:
    """All images under one movement, bilinear, with black coming in; float32 [n, C, H, W], differentiable.

    Args:
        images: float32 [n, C, H, W].
        movement: float32 [2, 3], on their device, from a pixel's place in the result to where it is read.
        black: float32 [C, 1, 1], on their device.
    """
    grid = F.affine_grid(movement.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images - black, grid, align_corners=False) + black


def random_movement(rng: np.random.Generator) -> Tensor:
    """A random rotation, scaling and shift, float32 [2, 3]."""
    angle, tall, wide, down, right = rng.uniform(-1, 1, 5)
    cos, sin = math.cos(_ROTATION * angle), math.sin(_ROTATION * angle)
    rows, columns = _SCALE**tall, _SCALE**wide
    # The sampling grid runs from -1 to 1: a share of the side is twice that.
    matrix = [[columns * cos, -columns * sin, 2 * _SHIFT * right], [rows * sin, rows * cos, 2 * _SHIFT * down]]
    return torch.tensor(matrix, dtype=torch.float32)
