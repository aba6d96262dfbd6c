"""How many members an attack finds, as a curve: inline SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from private_distdd.release.html import safe

_CURVES = {"attack": "what the attack reached", "ceiling": "what epsilon allows", "guess": "guessing"}


def roc_curve(record: Mapping[str, Any]) -> str:
    """TPR over FPR on logarithmic axes, as inline SVG."""
    if not record["curves"]:
        return ""
    curves = {**record["curves"], "guess": [(rate, rate) for rate, _ in record["curves"]["attack"]]}
    decades = math.ceil(-math.log10(curves["guess"][0][0]))
    size, margin = 320, 60

    def place(rate: float) -> float:
        return size * (1 + max(-decades, math.log10(max(rate, 1e-300))) / decades)

    lines = "".join(
        f"<polyline class={name} points='"
        + " ".join(f"{margin + place(x):.1f},{size + 10 - place(y):.1f}" for x, y in curves[name])
        + "'/>"
        for name in _CURVES
    )
    ticks = "".join(
        f"<text x={margin + place(10.0**-k):.0f} y={size + 28} text-anchor=middle>{10.0**-k:g}</text>"
        f"<text x={margin - 6} y={size + 14 - place(10.0**-k):.0f} text-anchor=end>{10.0**-k:g}</text>"
        for k in range(decades + 1)
    )
    keys = ", ".join(f"<span class='key {name}'></span> {text}" for name, text in _CURVES.items())
    name = safe(record["audit"])
    return (
        f"<figure><svg viewBox='0 0 {size + margin + 16} {size + 50}' role=img aria-label='{name}: TPR over FPR'>"
        f"<rect x={margin} y=10 width={size} height={size} />{lines}{ticks}"
        f"<text x={margin + size / 2:.0f} y={size + 46} text-anchor=middle>false positive rate</text>"
        f"<text x=12 y={10 + size / 2:.0f} text-anchor=middle transform='rotate(-90 12 {10 + size / 2:.0f})'>true "
        f"positive rate</text></svg><figcaption>{name}, {safe(record['claim'])}: {keys}.</figcaption></figure>"
    )
