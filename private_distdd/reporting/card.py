"""The card as a page: self-contained HTML that opens without a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def render_card(card: Mapping[str, Any]) -> str:
    return "<html></html>"
