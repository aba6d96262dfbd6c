"""One cell of a sweep: everything that one run is made from, under an id that follows from it."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from private_distdd.encoding import sha256, to_json
from private_distdd.errors import ConfigurationError

SECTIONS = ("data", "split", "mislabel", "method", "privacy", "evaluation")


@dataclass(frozen=True)
class Cell:
    """The knobs of one run.

    Args:
        settings: by section (see `SECTIONS`) the knobs that were given, and "seed"; values that JSON has, and infinity.

    Raises:
        ConfigurationError: JSON has no such value.
    """

    settings: Mapping[str, Any]

    def __post_init__(self) -> None:
        self.id  # noqa: B018 - it is checked when it is made

    @functools.cached_property
    def id(self) -> str:
        """16 hexadecimal digits: equal for equal settings, in whatever order and with 8 or 8.0; else different."""
        return sha256(to_json(self.record).encode())[:16]

    @functools.cached_property
    def record(self) -> dict[str, Any]:
        """The settings as JSON."""
        record: dict[str, Any] = plain(self.settings)
        return record

    def __str__(self) -> str:
        return ", ".join(f"{name} = {value}" for name, value in flat(self.record).items())


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without their sections: {"method.rounds": 20, "seed": 0}."""
    knobs = {f"{section}.{name}": value for section in SECTIONS for name, value in settings[section].items()}
    return knobs | {"seed": settings["seed"]}


def plain(value: Any) -> Any:
    """Settings as JSON, alike where they mean the same: whole numbers without a point, infinity as a word.

    Raises:
        ConfigurationError: JSON has no such value.
    """
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, float):
        return int(value) if value.is_integer() else value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    raise ConfigurationError(f"{value!r}", "a number, a text, true or false, a list or a table", "Write it as one.")
