"""The networks that a query may name: a client builds only what its own process has registered."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import nn

from private_distdd.errors import ModelError
from private_distdd.validate import is_same_definition

FACTORIES: dict[str, Callable[..., nn.Module]] = {}
_Factory = TypeVar("_Factory", bound=Callable[..., nn.Module])


def register_model(name: str) -> Callable[[_Factory], _Factory]:
    """Decorator: `ModelSpec(name, arguments)` then means `factory(shape, num_classes, **arguments)`.

    The factory returns an initialised network: examples [n, *shape] to logits [n, num_classes].  `shape` is a tuple,
    (channels, height, width) of images or (features,) of a table.  Register a model of your own in every process that
    holds a client, before the first query.

    Raises:
        ModelError: the name is empty, or taken by another factory.
    """

    def register(factory: _Factory) -> _Factory:
        known = FACTORIES.get(name, factory)
        if not name or not is_same_definition(known, factory):
            raise ModelError(f"model name {name!r}", "a name that is not taken", f"Taken: {registered_models()}.")
        FACTORIES[name] = factory
        return factory

    return register


def registered_models() -> tuple[str, ...]:
    """The names a `ModelSpec` can have, sorted."""
    return tuple(sorted(FACTORIES))
