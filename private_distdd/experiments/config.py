"""A sweep's configuration, and the cells that it means."""

from __future__ import annotations

import itertools
import os
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from private_distdd.errors import ConfigurationError
from private_distdd.experiments.cell import SECTIONS, Cell, plain

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_NEEDED = ("data", "split", "method")


@dataclass(frozen=True)
class Sweep:
    """A configuration, expanded.

    Args:
        config: as JSON: sections of knobs, and "seeds".  A section is a table, or a list of tables, each of which is a
            choice.  In a table a knob that is a list is swept: each of its values is a choice (a knob whose own value
            is a list is written as a list in a list).  A cell is one choice of each section with one seed.  A method's
            own knobs "privacy" are laid over those of the section, where a cell has some.
        cells: all of them, none twice, those of one seed after those of another: so the first ones are a round
            through everything, by which time can be estimated.
    """

    config: Mapping[str, Any]
    cells: tuple[Cell, ...]

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Sweep:
        """The sweep that a configuration means.

        Raises:
            ConfigurationError: unknown or missing sections, a section that is none, an empty list, or a cell twice.
        """
        known = (*SECTIONS, "seeds")
        for name in (*config, *_NEEDED):
            if name not in known or name not in config:
                given = f"{name!r} in a sweep" if name in config else f"a sweep without {name!r}"
                raise ConfigurationError(given, f"the sections {list(known)}", f"Needed are {list(_NEEDED)}.")
        seeds = config.get("seeds", 0)
        seeds = list(seeds) if isinstance(seeds, range) else seeds
        choices = [_choices(name, config.get(name, {})) for name in SECTIONS]
        cells = tuple(
            Cell({**_with_own_privacy(dict(zip(SECTIONS, chosen, strict=True)), "privacy" in config), "seed": seed})
            for seed in _values("seeds", seeds)
            for chosen in itertools.product(*choices)
        )
        count = Counter(cell.id for cell in cells)
        twice = next((cell for cell in cells if count[cell.id] > 1), None)
        if twice is not None:
            raise ConfigurationError(f"twice the cell {twice}", "each choice once", "Strike one out.")
        return cls(plain({**config, "seeds": seeds}), cells)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Sweep:
        """The sweep of a TOML file.

        Raises:
            ConfigurationError: as `of`, or the file cannot be read.
        """
        try:
            config = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"{os.fspath(path)}: {error}", "a TOML file", "docs/sweeps.md shows one."
            ) from error
        return cls.of(config)


def _choices(section: str, given: Any) -> list[dict[str, Any]]:
    """Every choice of one section: of each of its tables the product of the lists."""
    tables = given if isinstance(given, list) and given else [given]
    if not all(isinstance(table, Mapping) for table in tables):
        raise ConfigurationError(f"{section} = {given!r}", "a table of knobs, or several", f"Write [{section}].")
    return [
        dict(zip(table, values, strict=True))
        for table in tables
        for values in itertools.product(*(_values(f"{section}.{name}", value) for name, value in table.items()))
    ]


def _with_own_privacy(settings: dict[str, dict[str, Any]], is_private: bool) -> dict[str, dict[str, Any]]:
    """One choice of each section, with the method's own knobs of privacy in their place."""
    own = settings["method"].get("privacy", {})
    if not isinstance(own, Mapping) or (own and not is_private):
        raise ConfigurationError(
            f'method.privacy = {own!r}, {"with" if is_private else "without"} a section "privacy"',
            "a table of knobs, over those of the section",
            "Write what all methods share in [privacy], and here what this one needs in its place.",
        )
    method = {name: value for name, value in settings["method"].items() if name != "privacy"}
    privacy = settings["privacy"]
    return settings | {"method": method, "privacy": {**privacy, **own} if privacy else privacy}


def _values(name: str, given: Any) -> list[Any]:
    values = given if isinstance(given, list) else [given]
    if not values:
        raise ConfigurationError(f"{name} = []", "at least one value", "Leave it out for its default.")
    return values
