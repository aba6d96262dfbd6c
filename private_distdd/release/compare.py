"""A stated number against the computed one: equal, but for last digits and what other versions may say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def close_to(stated: Any, computed: Any) -> bool:
    """Equal, but for the last digits that another version of a numerical library may give."""
    if isinstance(stated, float) and isinstance(computed, float):
        return math.isclose(stated, computed, rel_tol=1e-6, abs_tol=1e-9)
    return type(stated) is type(computed) and bool(stated == computed)


def is_weaker(line: str, stated: Any, computed: Any) -> bool:
    """Does a card of another version claim less than is computed here?  Accountants get tighter, and word notes anew.

    A stated bound above the computed one promises less, and holds.
    """
    if line.endswith((".note", ".prv_lower")):  # no claims
        return type(stated) is type(computed)
    bound = line.endswith((".rdp", ".prv", ".epsilon")) and not line.startswith("budget")
    return bound and isinstance(stated, float) and isinstance(computed, float) and stated >= computed


def flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with the fields of its parts as "part.field"."""
    parts = {name: value for name, value in record.items() if isinstance(value, Mapping)}
    return {name: value for name, value in record.items() if name not in parts} | {
        f"{name}.{field}": value for name, part in parts.items() for field, value in part.items()
    }
