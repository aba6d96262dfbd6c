"""The frontier as inline SVG: accuracy with its spread against epsilon, a line for each label."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from private_distdd.release.html import safe
from private_distdd.rounding import rounded_up

_HEIGHT = 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 540, 14, 330
_OPEN = 595  # the place of runs without privacy
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#555555", "#a6761d")
_DASHES = ("none", "6 3", "2 3", "8 3 2 3")  # each starts the colours again


class Mark(NamedTuple):
    """One point of a line.

    Args:
        epsilon: > 0; infinity stands apart, on the right.
        accuracy: mean, in [0, 1].
        spread: standard deviation; None draws no bar.
    """

    epsilon: float
    accuracy: float
    spread: float | None


def frontier(lines: Mapping[str, Sequence[Mark]]) -> str:
    """The figure; its styles are its own, so that it is a picture without the page too.

    Args:
        lines: marks by label, at least one.
    """
    marks = [mark for line in lines.values() for mark in line]
    finite = [mark.epsilon for mark in marks if math.isfinite(mark.epsilon)] or [1.0]
    # At least half a decade, so that one epsilon is a place and not a whole axis.
    middle, half = math.log10(min(finite) * max(finite)) / 2, math.log10(max(finite) / min(finite)) / 2
    half = max(1.15 * half, 0.25)
    low = min(mark.accuracy - (mark.spread or 0) for mark in marks)
    high = max(mark.accuracy + (mark.spread or 0) for mark in marks)
    spacing = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 1.0) if (high - low) / s <= 6)
    floor = max(0, math.floor(low / spacing))
    ceiling = max(min(math.ceil(high / spacing), round(1 / spacing)), floor + 1)

    def x(epsilon: float) -> float:
        if math.isinf(epsilon):
            return _OPEN
        return _LEFT + (_RIGHT - _LEFT) * (math.log10(epsilon) - middle + half) / (2 * half)

    def y(accuracy: float) -> float:
        share = (accuracy - floor * spacing) / ((ceiling - floor) * spacing)
        return _BOTTOM - (_BOTTOM - _TOP) * min(max(share, 0), 1)

    end = _OPEN + 25 if any(math.isinf(mark.epsilon) for mark in marks) else _RIGHT
    grid = "".join(
        f'<path d="M{_LEFT} {y(tick * spacing):.1f}H{end}" stroke="#e3e7eb"/>'
        f'<text x="{_LEFT - 6}" y="{y(tick * spacing) + 4:.1f}" text-anchor="end">{tick * spacing:.0%}</text>'
        for tick in range(floor, ceiling + 1)
    )
    shown: list[float] = []
    for epsilon in sorted(set(finite)):  # those that would be written over one another are left out
        if not shown or x(epsilon) - x(shown[-1]) > 40:
            shown.append(epsilon)
    grid += "".join(
        f'<path d="M{x(epsilon):.1f} {_TOP}V{_BOTTOM}" stroke="#e3e7eb"/>'
        f'<text x="{x(epsilon):.1f}" y="{_BOTTOM + 16}" text-anchor="middle">{float(rounded_up(epsilon, 3)):g}</text>'
        for epsilon in shown
    )
    if end != _RIGHT:
        grid += f'<text x="{_OPEN}" y="{_BOTTOM + 16}" text-anchor="middle">not private</text>'
    apart = min(7, 60 / len(lines))  # lines stand side by side, so that their bars can be told
    drawn = "".join(
        _line(
            [
                (x(mark.epsilon) + apart * (i - (len(lines) - 1) / 2), y(mark.accuracy), mark)
                for mark in sorted(line, key=lambda mark: mark.epsilon)
            ],
            i,
            y,
        )
        for i, line in enumerate(lines.values())
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {end + 24} {_HEIGHT}" role="img" '
        f'aria-label="accuracy against epsilon" font-family="system-ui,sans-serif" font-size="12" fill="#1b1f24">'
        f"{grid}{drawn}"
        f'<text x="{(_LEFT + _RIGHT) / 2}" y="{_BOTTOM + 38}" text-anchor="middle">\u03b5 of each client</text>'
        f'<text x="12" y="{(_TOP + _BOTTOM) / 2}" text-anchor="middle" '
        f'transform="rotate(-90 12 {(_TOP + _BOTTOM) / 2})">accuracy</text></svg>'
    )


def key(labels: Sequence[str]) -> str:
    """What the lines are, as HTML."""
    return "<br>".join(
        f'<svg width="36" height="12" aria-hidden="true"><path d="M2 6H34" {_stroke(i)}/>'
        f'<circle cx="18" cy="6" r="3.5" fill="{_COLOURS[i % len(_COLOURS)]}"/></svg> {safe(label)}'
        for i, label in enumerate(labels)
    )


def _stroke(index: int) -> str:
    dash = _DASHES[index // len(_COLOURS) % len(_DASHES)]
    return f'stroke="{_COLOURS[index % len(_COLOURS)]}" stroke-width="2" stroke-dasharray="{dash}" fill="none"'


def _line(places: Sequence[tuple[float, float, Mark]], index: int, y: Callable[[float], float]) -> str:
    """Marks, each with its bar, and a line through those of a finite epsilon."""
    colour = _COLOURS[index % len(_COLOURS)]
    through = [f"{across:.1f} {down:.1f}" for across, down, mark in places if math.isfinite(mark.epsilon)]
    text = f'<path d="M{"L".join(through)}" {_stroke(index)}/>' if through else ""
    for across, down, mark in places:
        if mark.spread:
            top, bottom = y(mark.accuracy + mark.spread), y(mark.accuracy - mark.spread)
            bar = f"M{across:.1f} {top:.1f}V{bottom:.1f}M{across - 4:.1f} {top:.1f}h8M{across - 4:.1f} {bottom:.1f}h8"
            text += f'<path d="{bar}" stroke="{colour}" stroke-width="1.2"/>'
        text += f'<circle cx="{across:.1f}" cy="{down:.1f}" r="4" fill="{colour}"/>'
    return text
