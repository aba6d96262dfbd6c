"""Numbers for people: bounds are rounded outwards, so that nothing printed promises more than what was computed."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

_BYTES = ("bytes", "kB", "MB", "GB", "TB")


def rounded_up(value: float, digits: int = 4) -> str:
    """An upper bound >= 0 with so many significant digits, rounded up; "∞" for infinity."""
    return _rounded(value, digits, ROUND_CEILING)


def rounded_down(value: float, digits: int = 4) -> str:
    """A lower bound >= 0, likewise, rounded down."""
    return _rounded(value, digits, ROUND_FLOOR)


def in_bytes(count: int) -> str:
    """A number of bytes with three significant digits, rounded up; 1 MB is 10^6 bytes."""
    power = min((len(str(count)) - 1) // 3, len(_BYTES) - 1)
    return f"{rounded_up(count / 1000**power, 3)} {_BYTES[power]}"


def _rounded(value: float, digits: int, rounding: str) -> str:
    if math.isinf(value):
        return "∞"
    exact = Decimal(repr(float(value)))
    if exact == 0:
        return "0"
    rounded = exact.quantize(Decimal(1).scaleb(exact.adjusted() - digits + 1), rounding=rounding)
    return f"{rounded:f}" if 1e-3 <= rounded < 1e5 else f"{rounded:.{digits - 1}e}"
