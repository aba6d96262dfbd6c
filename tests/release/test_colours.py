"""Pages are read in light and in dark: each colour of a page has a value for both, with enough contrast."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from private_distdd.experiments.page import _PAGE as SWEEP
from private_distdd.release.colours import COLOURS
from private_distdd.release.page import PAGE as CARD

REPORT = (files("private_distdd") / "templates" / "report.css").read_text(encoding="utf-8")
STYLES = {"card": CARD.template, "sweep": SWEEP.template, "report": REPORT}
LIGHT, DARK = (
    dict(re.findall(r"--([a-z-]+):(#[0-9a-f]{3,6})", part))
    for part in COLOURS.split("@media screen and (prefers-color-scheme:dark)")
)
# Words, and the grounds that they stand on.
TEXTS = [
    *((text, "ground") for text in ("ink", "soft", "good", "bad", "bad-edge", "blue")),
    *((text, f"{kind}-ground") for kind in ("good", "warn", "bad") for text in ("ink", kind)),
]
DRAWN = [(line, "ground") for line in ("blue", "violet", "bad-edge", "good-edge")]


def luminance(colour: str) -> float:
    """Relative, as WCAG 2 defines it."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    shares = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_words_and_lines_have_enough_contrast(scheme: dict[str, str]) -> None:
    for text, ground in TEXTS:
        assert contrast(scheme[text], scheme[ground]) >= 4.5, (text, ground)
    for line, ground in DRAWN:
        assert contrast(scheme[line], scheme[ground]) >= 3, (line, ground)


def test_light_pages_are_light_and_dark_ones_dark() -> None:
    assert LIGHT.keys() == DARK.keys()
    assert luminance(LIGHT["ground"]) > 0.9
    assert luminance(DARK["ground"]) < 0.02


@pytest.mark.parametrize("name", STYLES)
def test_a_page_takes_its_colours_by_name(name: str) -> None:
    """But the loudest verdict, which is white on red in both schemes."""
    style = STYLES[name].replace(COLOURS, "").partition("</style>")[0]
    named = set(re.findall(r"var\(--([a-z-]+)\)", style))
    assert {"ink", "ground"} <= named <= LIGHT.keys()
    loud = ["#b3001b", "#5c000e", "#fff"] if name == "card" else []
    assert re.findall(r"#[0-9a-f]{3,6}\b", style) == loud
    assert contrast("#b3001b", "#fff") >= 4.5
    assert name == "report" or COLOURS in STYLES[name]
