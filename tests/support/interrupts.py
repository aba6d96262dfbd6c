"""What a run leaves that Ctrl-C ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from private_distdd.errors import Interrupted
from private_distdd.release.release import Release


def interrupted(fit: Callable[..., Release], *arguments: Any, **named: Any) -> Release:
    """The release that came with the exception."""
    with pytest.raises(Interrupted) as stop:
        fit(*arguments, **named)
    return stop.value.release
