"""The epsilon-delta curve of the agreed schedule, as inline SVG.

Drawn by hand: `verify` makes the page anew and compares its bytes, which must not depend on the version of matplotlib
or of a font.  For the same reason the page itself is a plain template of the standard library.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from private_distdd.privacy.accountants import PRV
from private_distdd.privacy.accountants import delta as delta_at
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.release.html import safe, shown_epsilon

# The curve is drawn on 360 x 230 units: as wide as a phone, so that its letters stay readable there.
_WIDTH, _HEIGHT = 360, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 340, 14, 190
_POINTS = 61
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def curve_figure(plan: PrivacyPlan, clients: Mapping[str, Any]) -> str:
    """The epsilon-delta curve of the agreed schedule as inline SVG, with the claimed point."""
    claim = max(float(bill["claim"]["epsilon"]) for bill in clients.values())
    spacing = _nice(claim * 1.5 / 5 if claim > 0 else 0.2)
    most = spacing * math.ceil(max(claim * 1.4, spacing) / spacing)
    decades = math.ceil(-math.log10(plan.delta)) + 3

    def x(epsilon: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * epsilon / most

    def y(log_delta: float) -> float:
        return _TOP + (_BOTTOM - _TOP) * -log_delta / decades

    epsilons = [most * i / (_POINTS - 1) for i in range(_POINTS)]
    by_rdp = [delta_at([plan.schedule], epsilon, "rdp") for epsilon in epsilons]
    prv = PRV.for_budget(max(claim, 0.1))  # finer for small claims, which the usual error would hide
    by_prv = [delta_at([plan.schedule], epsilon, prv) for epsilon in epsilons]
    best = [min(pair) for pair in zip(by_rdp, by_prv, strict=True)]

    def path(deltas: Sequence[float]) -> str:
        points = zip(epsilons, deltas, strict=True)
        return "M" + "L".join(f"{x(e):.1f} {y(max(math.log10(max(d, 1e-300)), -2 * decades)):.1f}" for e, d in points)

    every = math.ceil(decades / 6)
    marks = "".join(
        f'<path class=grid d="M{_LEFT} {y(-d):.1f}H{_RIGHT}"/>'
        f'<text x="{_LEFT - 5}" y="{y(-d) + 4:.1f}" text-anchor=end>{"1" if d == 0 else "10" + _power(-d)}</text>'
        for d in range(0, decades + 1, every)
    ) + "".join(
        f'<path class=grid d="M{x(i * spacing):.1f} {_TOP}V{_BOTTOM}"/>'
        f'<text x="{x(i * spacing):.1f}" y="{_BOTTOM + 15}" text-anchor=middle>{i * spacing:g}</text>'
        for i in range(round(most / spacing) + 1)
    )
    px, py = x(claim), y(math.log10(plan.delta))
    label = f"ε = {shown_epsilon(claim)}, δ = {plan.delta:g}"
    return f"""<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role=img aria-label="epsilon-delta curve; {safe(label)}">
<clipPath id=frame><rect x="{_LEFT}" y="{_TOP}" width="{_RIGHT - _LEFT}" height="{_BOTTOM - _TOP}"/></clipPath>
{marks}
<g clip-path="url(#frame)"><path class=rdp d="{path(by_rdp)}"/><path class=best d="{path(best)}"/></g>
<path class=drop d="M{_LEFT} {py:.1f}H{px:.1f}V{_BOTTOM}"/><circle cx="{px:.1f}" cy="{py:.1f}" r="4.5"/>
<text class=claim x="{_RIGHT - 4}" y="{_TOP + 16}" text-anchor=end>● claimed: {safe(label)}</text>
<text x="{(_LEFT + _RIGHT) / 2:.1f}" y="{_HEIGHT - 6}" text-anchor=middle>ε</text>
<text x="6" y="{(_TOP + _BOTTOM) / 2:.1f}" text-anchor=middle>δ</text>
</svg><figcaption class=small>The whole trade: at each ε, the δ that all {plan.max_queries} queries keep together.
Solid: the smaller bound of RDP and PRV. Dashed: RDP.</figcaption></figure>"""


def _power(exponent: int) -> str:
    return str(exponent).translate(_SUPERSCRIPT)


def _nice(value: float) -> float:
    """The next number of the form 1, 2, 2.5 or 5 times a power of ten."""
    scale = float(f"1e{math.floor(math.log10(value))}")
    return next(step * scale for step in (1, 2, 2.5, 5, 10) if step * scale >= value * (1 - 1e-9))
