"""The methods by name: the command line, audits and checks find them here."""

from __future__ import annotations

from typing import Any, TypeVar

from private_distdd.errors import ConfigurationError
from private_distdd.validate import is_same_definition

_Class = TypeVar("_Class", bound=type[Any])
_METHODS: dict[str, type[Any]] = {}


def register_method(method: _Class) -> _Class:
    """Decorator of a method's class, whose `name` is what cards say, and in lower case what the command line takes.

    Raises:
        ConfigurationError: the name is taken by another class.
    """
    key = method.name.lower()
    known = _METHODS.get(key, method)
    if not is_same_definition(known, method):
        raise ConfigurationError(
            f"method name {method.name!r}", "a name that is not taken", f"Taken: {sorted(_METHODS)}."
        )
    _METHODS[key] = method
    return method


def registered_methods() -> tuple[str, ...]:
    """Their names in lower case, sorted."""
    return tuple(sorted(_METHODS))


def method_named(name: str) -> type[Any]:
    """The class of a registered method, by its name in any case.

    Raises:
        ConfigurationError: there is none of this name.
    """
    if name.lower() not in _METHODS:
        raise ConfigurationError(
            f"method {name!r}", f"one of {list(registered_methods())}", "Import the module that registers it."
        )
    return _METHODS[name.lower()]
