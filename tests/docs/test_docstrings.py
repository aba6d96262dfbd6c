"""What docstrings say of parameters: each that is told exists.  Nothing else would notice one that was renamed."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from typing import Any

import private_distdd


def told(documented: Callable[..., Any]) -> list[str]:
    """The parameters of a docstring's "Args", where one line may tell of several: `epsilon, delta: of the claim.`"""
    section = re.search(r"^Args:\n((?:    .*\n?|\n)+)", inspect.getdoc(documented) or "", re.MULTILINE)
    lines = re.findall(r"^    (\w+(?:, \w+)*):", section[1], re.MULTILINE) if section else []
    return [name for line in lines for name in line.split(", ")]


def unknown(documented: Callable[..., Any]) -> list[str]:
    """Those that the signature does not have."""
    return [name for name in told(documented) if name not in inspect.signature(documented).parameters]


def functions_and_classes() -> Iterator[Callable[..., Any]]:
    """Those of the library, and the functions of its classes."""
    for found in pkgutil.walk_packages(private_distdd.__path__, "private_distdd."):
        if not found.name.endswith("__main__"):
            module = importlib.import_module(found.name)
            for thing in vars(module).values():
                if (
                    getattr(thing, "__module__", None) == module.__name__
                    and callable(thing)
                    and hasattr(thing, "__name__")
                ):
                    yield thing
                    if inspect.isclass(thing):
                        yield from (inner for inner in vars(thing).values() if inspect.isfunction(inner))


def test_every_parameter_that_is_told_exists() -> None:
    everything = list(functions_and_classes())
    assert sum(len(told(thing)) for thing in everything) > 900
    wrong = {f"{thing.__module__}.{thing.__qualname__}": unknown(thing) for thing in everything}
    assert {name: names for name, names in wrong.items() if names} == {}


def test_one_that_was_renamed_is_found() -> None:
    def area(width: float, height: float) -> float:
        """Of a rectangle.

        Args:
            width, length: of its sides: in metres,
                or in feet.
            height: the other.
        """
        return width * height

    assert told(area) == ["width", "length", "height"]
    assert unknown(area) == ["length"]
