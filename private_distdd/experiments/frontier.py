"""Accuracy with its spread as inline SVG, a line for each label: against epsilon (the frontier), or another knob."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from private_distdd.release.html import safe
from private_distdd.rounding import rounded_up

_HEIGHT, _ROW = 386, 18  # of the picture, and of a line of its key
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 540, 14, 330
_OPEN = 595  # the place of infinity: of runs without privacy
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#555555", "#a6761d")
_GROUND = '<rect width="100%" height="100%" fill="#fff"/>'  # on a dark page the lines keep their contrast
_DASHES = ("none", "6 3", "2 3", "8 3 2 3")  # each starts the colours again


class Mark(NamedTuple):
    """One point of a line.

    Args:
        at: its place along the axis; infinity stands apart, on the right.
        accuracy: mean, in [0, 1].
        spread: standard deviation; None draws no bar.
    """

    at: float
    accuracy: float
    spread: float | None


class Axis(NamedTuple):
    """What accuracy is drawn against.

    Args:
        title: below the axis.
        open: what is said of the place of infinity.
        logarithmic: marks are > 0, and decades are equally long.
        tick: what is written at a place; a second line of it after a line break.
    """

    title: str
    open: str
    logarithmic: bool
    tick: Callable[[float], str]


EPSILON = Axis("\u03b5 of each client", "not private", True, lambda epsilon: f"{float(rounded_up(epsilon, 3)):g}")


def frontier(lines: Mapping[str, Sequence[Mark]], axis: Axis = EPSILON, *, keyed: bool = False) -> str:
    """The figure; its styles are its own, so that it is a picture without the page too.

    Args:
        lines: marks by label, at least one.
        axis: what is drawn from left to right.
        keyed: does the picture say itself what its lines are?  Else `key` does.
    """
    marks = [mark for line in lines.values() for mark in line]
    finite = [mark.at for mark in marks if math.isfinite(mark.at)] or [1.0]
    along: Callable[[float], float] = math.log10 if axis.logarithmic else float
    ends = along(min(finite)), along(max(finite))
    middle, half = sum(ends) / 2, (ends[1] - ends[0]) / 2
    # At least half a decade, so that one epsilon is a place and not a whole axis.
    half = max(1.15 * half, 0.25) if axis.logarithmic else 1.08 * half or 1.0
    low = min(mark.accuracy - (mark.spread or 0) for mark in marks)
    high = max(mark.accuracy + (mark.spread or 0) for mark in marks)
    spacing = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 1.0) if (high - low) / s <= 6)
    floor = max(0, math.floor(low / spacing))
    ceiling = max(min(math.ceil(high / spacing), round(1 / spacing)), floor + 1)

    def x(at: float) -> float:
        if math.isinf(at):
            return _OPEN
        return _LEFT + (_RIGHT - _LEFT) * (along(at) - middle + half) / (2 * half)

    def y(accuracy: float) -> float:
        share = (accuracy - floor * spacing) / ((ceiling - floor) * spacing)
        return _BOTTOM - (_BOTTOM - _TOP) * min(max(share, 0), 1)

    end = _OPEN + 25 if any(math.isinf(mark.at) for mark in marks) else _RIGHT
    grid = "".join(
        f'<path d="M{_LEFT} {y(tick * spacing):.1f}H{end}" stroke="#e3e7eb"/>'
        f'<text x="{_LEFT - 6}" y="{y(tick * spacing) + 4:.1f}" text-anchor="end">{tick * spacing:.0%}</text>'
        for tick in range(floor, ceiling + 1)
    )
    shown: list[float] = []
    for at in sorted(set(finite)):  # those that would be written over one another are left out
        if not shown or x(at) - x(shown[-1]) > 40:
            shown.append(at)
    grid += "".join(
        f'<path d="M{x(at):.1f} {_TOP}V{_BOTTOM}" stroke="#e3e7eb"/>{_tick(x(at), axis.tick(at))}' for at in shown
    )
    if end != _RIGHT:
        grid += _tick(_OPEN, axis.open)
    apart = min(7, 60 / len(lines))  # lines stand side by side, so that their bars can be told
    drawn = "".join(
        _line(
            [
                (x(mark.at) + apart * (i - (len(lines) - 1) / 2), y(mark.accuracy), mark)
                for mark in sorted(line, key=lambda mark: mark.at)
            ],
            i,
            y,
        )
        for i, line in enumerate(lines.values())
    )
    below = list(lines) if keyed else []
    named = "".join(
        f'<g transform="translate({_LEFT} {_HEIGHT + _ROW * i})">{_sample(i)}'
        f'<text x="44" y="10">{safe(label)}</text></g>'
        for i, label in enumerate(below)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {end + 24} {_HEIGHT + _ROW * len(below)}" role="img" '
        f'aria-label="accuracy against {safe(axis.title)}" '
        f'font-family="system-ui,sans-serif" font-size="12" fill="#1b1f24">{_GROUND}'
        f"{grid}{drawn}{named}"
        f'<text x="{(_LEFT + _RIGHT) / 2}" y="{_BOTTOM + 46}" text-anchor="middle">{safe(axis.title)}</text>'
        f'<text x="12" y="{(_TOP + _BOTTOM) / 2}" text-anchor="middle" '
        f'transform="rotate(-90 12 {(_TOP + _BOTTOM) / 2})">accuracy</text></svg>'
    )


def key(labels: Sequence[str]) -> str:
    """What the lines are, as HTML."""
    return "<br>".join(
        f'<svg width="36" height="12" aria-hidden="true">{_GROUND}{_sample(i)}</svg> {safe(label)}'
        for i, label in enumerate(labels)
    )


def _sample(index: int) -> str:
    colour = _COLOURS[index % len(_COLOURS)]
    return f'<path d="M2 6H34" {_stroke(index)}/><circle cx="18" cy="6" r="3.5" fill="{colour}"/>'


def _tick(across: float, text: str) -> str:
    return "".join(
        f'<text x="{across:.1f}" y="{_BOTTOM + 16 + 14 * row}" text-anchor="middle">{safe(line)}</text>'
        for row, line in enumerate(text.split("\n"))
    )


def _stroke(index: int) -> str:
    dash = _DASHES[index // len(_COLOURS) % len(_DASHES)]
    return f'stroke="{_COLOURS[index % len(_COLOURS)]}" stroke-width="2" stroke-dasharray="{dash}" fill="none"'


def _line(places: Sequence[tuple[float, float, Mark]], index: int, y: Callable[[float], float]) -> str:
    """Marks, each with its bar, and a line through those of finite places."""
    colour = _COLOURS[index % len(_COLOURS)]
    through = [f"{across:.1f} {down:.1f}" for across, down, mark in places if math.isfinite(mark.at)]
    text = f'<path d="M{"L".join(through)}" {_stroke(index)}/>' if through else ""
    for across, down, mark in places:
        if mark.spread:
            top, bottom = y(mark.accuracy + mark.spread), y(mark.accuracy - mark.spread)
            bar = f"M{across:.1f} {top:.1f}V{bottom:.1f}M{across - 4:.1f} {top:.1f}h8M{across - 4:.1f} {bottom:.1f}h8"
            text += f'<path d="{bar}" stroke="{colour}" stroke-width="1.2"/>'
        text += f'<circle cx="{across:.1f}" cy="{down:.1f}" r="4" fill="{colour}"/>'
    return text
