"""How bytes from anybody are read: whole, of the right kind and size, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Set
from typing import Any, TypeVar

from private_distdd.errors import PrivateDistDDError, QueryRefusedError
from private_distdd.limits import CONTROL_BYTES

Parsed = TypeVar("Parsed")


def require_text(name: str, value: object, most: int) -> str:
    """`value` if it is a text of at most so many characters: what is no text must not become one.

    Raises:
        QueryRefusedError: it is not.
    """
    if not isinstance(value, str) or len(value) > most:
        raise QueryRefusedError(f"{name} = {value!r}", f"a text of at most {most} characters", "Correct it.")
    return value


def json_object(name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise QueryRefusedError(f"{name} = {value!r}", "a JSON object", "Correct it.")
    return value


def check_kind(record: Mapping[str, Any], kind: str, names: set[str], optional: Set[str] = frozenset()) -> None:
    if record.get("kind") != kind or set(record) - optional != names | {"kind"}:
        raise ValueError(f"not a {kind} with the fields {sorted(names)}")


def json_of_kind(data: bytes, kind: str, names: set[str], optional: Set[str] = frozenset()) -> dict[str, Any]:
    if len(data) > CONTROL_BYTES:
        raise ValueError(f"{len(data)} bytes, more than {CONTROL_BYTES}")
    record = json.loads(data)
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    check_kind(record, kind, names, optional)
    return record


def or_refuse(what: str, parse: Callable[[], Parsed]) -> Parsed:
    try:
        return parse()
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, PrivateDistDDError) as error:
        raise QueryRefusedError(
            f"a {what} that cannot be read ({error})", f"the bytes of a {what} of this library", "Ask again."
        ) from error
