"""Text as HTML, and numbers as the card shows them."""

from __future__ import annotations

import functools
import html
import json
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from private_distdd.release.colours import COLOURS
from private_distdd.rounding import rounded_down, rounded_up

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, **values: Any) -> str:
    """A page of `private_distdd/templates`.

    Every value is escaped and made `printable` where it is shown, whatever the template says; only markup that our own
    code made (`markupsafe.Markup`) is not.

    Args:
        template: its file's name.
        values: what it shows; one that it asks for and is not given is an error.
    """
    return _environment().get_template(template).render(**values)


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # most commands show no page
    from markupsafe import Markup

    made = Environment(
        loader=PackageLoader("private_distdd", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if hasattr(value, "__html__") else printable(value),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["colours"] = Markup(COLOURS)  # noqa: S704 - a constant of ours
    made.filters |= {
        "up": shown_epsilon,
        "down": rounded_down,
        "percent": lambda share: f"{100 * share:.3g} %",
        "figure": lambda value: value if isinstance(value, str) else f"{value:.4g}",
    }
    return made


def printable(value: object) -> str:
    """Text on one line, without characters that could reorder what is read."""
    return "".join(c if c.isprintable() else "\ufffd" for c in str(value))


def safe(value: object) -> str:
    """Text for HTML, `printable`."""
    return html.escape(printable(value))


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
