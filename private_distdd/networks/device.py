"""Where networks compute."""

from __future__ import annotations

import torch
from torch import Tensor

from private_distdd.errors import ConfigurationError


def require_device(device: str | torch.device) -> None:
    """Refuse a device that torch cannot use here.

    Raises:
        ConfigurationError: so it is.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ConfigurationError(
            f"device = {device!r}", "a device that torch can use here, such as 'cpu' or 'cuda'", str(error)
        ) from error


def quick(images: Tensor) -> Tensor:
    """The same values in the order that a CPU is quickest with, channels last: pooling is ten times as fast then.

    Args:
        images: [n, C, H, W], or anything else, which is given back as it is, as on other devices.
    """
    if images.dim() == 4 and images.device.type == "cpu":
        return images.clone(memory_format=torch.channels_last)
    return images
