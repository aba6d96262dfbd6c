"""Text as HTML, and numbers as the card shows them."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from private_distdd.rounding import rounded_up


def safe(value: object) -> str:
    """Text for HTML, on one line and without characters that could reorder what is read."""
    return html.escape("".join(c if c.isprintable() else "\ufffd" for c in str(value)))


def shown_epsilon(value: float | str) -> str:
    """An upper bound as the card shows it, rounded up; the card's "infinity" is the sign for it."""
    return rounded_up(math.inf if value == "infinity" else float(value))


def fact_list(facts: Iterable[tuple[str, str]]) -> str:
    """Names, which are HTML already, and values, which are text, as a definition list."""
    return "<dl>" + "".join(f"<div><dt>{name}</dt><dd>{safe(value)}</dd></div>" for name, value in facts) + "</dl>"


def paragraph(text: str) -> str:
    """Text as one paragraph."""
    return f"<p>{safe(text)}</p>"


def chips(record: Mapping[str, Any]) -> str:
    """Names and values in running text."""
    texts = {
        name: value if isinstance(value, str) else json.dumps(value, sort_keys=True) for name, value in record.items()
    }
    return "; ".join(f"<span><b>{safe(name)}</b> {safe(text)}</span>" for name, text in sorted(texts.items())) + "."
