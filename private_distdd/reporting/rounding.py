"""Numbers for people: an upper bound is rounded up, so that nothing printed promises more than what was computed."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, Decimal


def rounded_up(value: float, digits: int = 4) -> str:
    """`value` >= 0 with so many significant digits, rounded up; "∞" for infinity."""
    if math.isinf(value):
        return "∞"
    exact = Decimal(repr(float(value)))
    if exact == 0:
        return "0"
    rounded = exact.quantize(Decimal(1).scaleb(exact.adjusted() - digits + 1), rounding=ROUND_CEILING)
    return f"{rounded:f}" if 1e-3 <= rounded < 1e5 else f"{rounded:.{digits - 1}e}"
