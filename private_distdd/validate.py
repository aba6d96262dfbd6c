"""Checks of arguments, one place for each kind: what is no whole number, number or identifier is refused alike."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TypeGuard

from private_distdd.errors import ConfigurationError, QueryRefusedError


def require_number(name: str, value: object, low: float, high: float, allowed: str, remedy: str) -> float:
    """`value` as a float if it is a number with low < value < high (both ends excluded).

    Raises:
        ConfigurationError: it is not, with `allowed` and `remedy` in the text.
    """
    if not is_real(value) or not low < value < high:
        raise ConfigurationError(f"{name} = {value!r}", allowed, remedy)
    return float(value)


def require_count(name: str, value: object, remedy: str, at_least: int = 1, at_most: int | None = None) -> int:
    """`value` if it is a whole number of at least `at_least`, and at most `at_most` where that is given.

    Raises:
        ConfigurationError: it is not.
    """
    if not is_whole(value) or value < at_least or (at_most is not None and value > at_most):
        allowed = f"a whole number of at least {at_least}"
        raise ConfigurationError(
            f"{name} = {value!r}", allowed if at_most is None else f"{allowed} and at most {at_most}", remedy
        )
    return value


def require_flag(name: str, value: object, remedy: str = "Choose one.") -> bool:
    """`value` if it is True or False.

    Raises:
        ConfigurationError: it is something else, even if Python would take it for one of them.
    """
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} = {value!r}", "True or False", remedy)
    return value


def require_kind(name: str, value: object, kind: type | tuple[type, ...], allowed: str, remedy: str) -> None:
    """Refuse what is of another kind; the error says its class, for its text may be long or private.

    Raises:
        ConfigurationError: it is.
    """
    if not isinstance(value, kind):
        raise ConfigurationError(f"{name} is of class {type(value).__name__}", allowed, remedy)


def require_path(name: str, value: object) -> Path:
    """`value` as a path.

    Raises:
        ConfigurationError: it is neither text nor a path.
    """
    require_kind(name, value, (str, os.PathLike), "a path", "Name a file or a folder.")
    return Path(value)  # type: ignore[arg-type]  # it has just been looked at


IDENTIFIER = re.compile(r"[A-Za-z0-9_-]{1,64}")


def require_identifier(name: str, value: object) -> str:
    """`value` if it may name a client or a run.

    Raises:
        QueryRefusedError: it is not `[A-Za-z0-9_-]{1,64}`.
    """
    if not isinstance(value, str) or not IDENTIFIER.fullmatch(value):
        raise QueryRefusedError(f"{name} = {value!r}", "1 to 64 of A-Z a-z 0-9 _ -", "Choose another identifier.")
    return value


def is_whole(value: object) -> TypeGuard[int]:
    """Is it a whole number?  True and False are none, though Python counts with them."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_real(value: object) -> TypeGuard[float]:
    """Is it a number, whole or not?  True and False are none; NaN and the infinities are."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_same_definition(one: object, other: object) -> bool:
    """Are these classes or functions written at one place?  A notebook's cell that runs twice makes two of one."""
    return all(getattr(one, name, None) == getattr(other, name, None) for name in ("__module__", "__qualname__"))
