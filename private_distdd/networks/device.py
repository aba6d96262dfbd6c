"""Where networks compute."""

from __future__ import annotations

import torch

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
