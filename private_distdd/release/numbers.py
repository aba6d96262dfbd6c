"""Numbers as a card holds them, and when two of them are the same."""

from __future__ import annotations

import math
from typing import Any


def as_text(value: float) -> float | str:
    """The number as JSON can hold it: "infinity" for what is not finite; `as_number` is the inverse."""
    return value if math.isfinite(value) else "infinity"


def as_number(value: float | str) -> float:
    """The number that `as_text` wrote.

    Raises:
        ValueError: another text.
    """
    return math.inf if value == "infinity" else float(value)


def close_to(stated: Any, computed: Any) -> bool:
    """Equal, but for the last digits that another version of a numerical library may give."""
    if isinstance(stated, float) and isinstance(computed, float):
        return math.isclose(stated, computed, rel_tol=1e-6, abs_tol=1e-9)
    return type(stated) is type(computed) and bool(stated == computed)
