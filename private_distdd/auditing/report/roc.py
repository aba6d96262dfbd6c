"""How many members an attack finds, as a curve: what `templates/roc.html` draws."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_MEANINGS = {"attack": "what the attack reached", "ceiling": "what epsilon allows", "guess": "guessing"}
_SIZE = 320  # of the frame, in the drawing's units


def roc_figure(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """TPR over FPR on logarithmic axes: lines by name, and ticks; None for a record without curves.

    Places are from 0, at the least rate that is shown, to `size`, at 1.
    """
    if not record["curves"]:
        return None
    curves = {**record["curves"], "guess": [(rate, rate) for rate, _ in record["curves"]["attack"]]}
    decades = math.ceil(-math.log10(curves["guess"][0][0]))

    def place(rate: float) -> float:
        return _SIZE * (1 + max(-decades, math.log10(max(rate, 1e-300))) / decades)

    return {
        "size": _SIZE,
        "lines": {name: [(place(x), place(y)) for x, y in curves[name]] for name in _MEANINGS},
        "meanings": _MEANINGS,
        "ticks": [(10.0**-k, place(10.0**-k)) for k in range(decades + 1)],
    }
