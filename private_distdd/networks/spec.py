"""A registered network with its arguments: what a query names, and what both sides build."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

import torch
from torch import nn

from private_distdd.data.form import Shape
from private_distdd.errors import ConfigurationError, ModelError
from private_distdd.limits import ARGUMENT_LENGTH, ARGUMENT_SIZE, ARGUMENTS, NETWORKS
from private_distdd.networks.register import FACTORIES, registered_models
from private_distdd.networks.seeding import default_generator
from private_distdd.networks.size import NetworkSize, measure
from private_distdd.networks.validation import validate_model
from private_distdd.validate import require_count

Scalar: TypeAlias = "str | int | float | bool | tuple[Scalar, ...] | None"


@dataclass(frozen=True)
class ModelSpec:
    """A registered model with its arguments: what a query names.  Immutable, hashable, JSON-able.

    Args:
        name: a registered name; looked up when the network is built, not before.
        arguments: keyword arguments of the factory: strings, finite numbers, booleans, None, or lists of these.  At
            most 64 of them, of at most 256 characters or items, and numbers of magnitude at most 2^20.

    Raises:
        ModelError: the name is not a string, or an argument is of another kind.
    """

    name: str
    arguments: Mapping[str, Scalar] = field(default_factory=dict, hash=False, compare=False)
    # What decides equality and hash: in Python 1 == True == 1.0, in JSON they differ.
    _canonical: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not isinstance(self.arguments, Mapping):
            found = self.name if isinstance(self.name, str) else f"of class {type(self.name).__name__}"
            raise ModelError(
                f"model {found} with arguments of class {type(self.arguments).__name__}",
                "the name of a registered network, and a mapping of its arguments",
                'Networks go by name, for queries carry no code: register_model("mine")(make) takes your class, or a '
                'function, as make(shape, num_classes, **arguments); then say model="mine".',
            )
        names = list(self.arguments)
        if len(names) > ARGUMENTS or not all(isinstance(n, str) and len(n) <= ARGUMENT_LENGTH for n in names):
            raise ModelError(
                f"model arguments {names!r}",
                f"string keys of at most {ARGUMENT_LENGTH} characters, and at most {ARGUMENTS} of them",
                "Name each argument.",
            )
        frozen = _Frozen({key: _frozen(key, value) for key, value in self.arguments.items()})
        object.__setattr__(self, "arguments", frozen)
        object.__setattr__(self, "_canonical", json.dumps(frozen, sort_keys=True, allow_nan=False))

    def build(self, shape: Shape, num_classes: int, seed: int | None = None) -> nn.Module:
        """A fresh network on the CPU.

        Args:
            shape: of one example, (C, H, W) or (features,).
            num_classes: number of logits.
            seed: of the public initialisation, so that whoever knows it has the same weights; None where weights are
                loaded afterwards.  Torch's default generator is left as it was found either way.

        Raises:
            ModelError: unknown name or argument, or an argument the model cannot have with these examples.
        """
        shape = tuple(shape)  # JSON may have made a list of it
        factory = FACTORIES.get(self.name)
        if factory is None:
            raise ModelError(
                f"model {self.name!r}", f"a registered name: {registered_models()}", "Register it with register_model."
            )
        try:
            inspect.signature(factory).bind(shape, num_classes, **self.arguments)
        except TypeError as error:
            raise ModelError(
                f"{self.name}: {error}", f"{self.name}{inspect.signature(factory)}", "Correct the arguments."
            ) from error
        with default_generator(seed):
            model = factory(shape, num_classes, **self.arguments)
        if not isinstance(model, nn.Module):
            raise ModelError(f"{self.name} built a {type(model).__name__}", "an nn.Module", "Return the network.")
        return model

    def size(self, shape: Shape, num_classes: int) -> NetworkSize:
        """What the network is made of, without making it: no memory is taken for weights or activations.

        A network registered by somebody else that cannot be built without storage is built once, on the CPU.

        Raises:
            ModelError: as `build`, or it cannot take such examples.
        """
        shape = tuple(shape)
        return _size_once(FACTORIES.get(self.name), self, shape, num_classes)

    def validate(self, shape: Shape, num_classes: int) -> None:
        """`validate_model` for what `build` returns, done once a process: a client may ask before every query.

        Raises:
            ModelError: as `build` and `validate_model`.
        """
        shape = tuple(shape)
        _validate_once(FACTORIES.get(self.name), self, shape, num_classes)

    def to_json(self) -> dict[str, Any]:
        """A JSON object; `from_json` is its inverse."""
        return {"name": self.name, "arguments": json.loads(self._canonical)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> ModelSpec:
        """The spec that `to_json` wrote.

        Raises:
            ModelError: missing or unknown fields, or a value of the wrong kind.
        """
        if not isinstance(record, Mapping) or set(record) != {"name", "arguments"}:
            raise ModelError(f"model record {record!r}", "the fields name and arguments", "The record is damaged.")
        return cls(record["name"], record["arguments"])


def require_seeds(seeds: object) -> tuple[int, ...]:
    """The seeds of a query's networks, 1 ... 4,096 whole numbers in [0, 2^63).

    Raises:
        ModelError: no list.
        ConfigurationError: too few or too many, or one is out of range.
    """
    if not isinstance(seeds, list | tuple):
        raise ModelError(f"seeds of type {type(seeds).__name__}", "a list of whole numbers", "Give one a network.")
    require_count("networks", len(seeds), "32 is usual.", at_most=NETWORKS)
    for seed in seeds:
        require_count("seed", seed, "Any whole number from 0 on.", at_least=0)
        if seed >= 1 << 63:  # torch's generator takes no larger one
            raise ConfigurationError(f"seed = {seed}", "a whole number below 2^63", "Choose a smaller one.")
    return tuple(seeds)


_ZOO = "private_distdd.networks.zoo."
_SMALL = 1 << 24  # parameters of a network that may be made to count its size


@lru_cache(maxsize=256)
def _size_once(factory: object, spec: ModelSpec, shape: Shape, num_classes: int) -> NetworkSize:
    parameters = 0
    try:
        with torch.device("meta"):
            model = spec.build(shape, num_classes)
            parameters = sum(p.numel() for p in model.parameters())
            return measure(model, shape, "meta")
    except Exception:
        # Foreign code may look at its weights: registered by the owner, it may be built.  Ours never needs that, and
        # what would be large is not built to find out that it is.
        if getattr(factory, "__module__", _ZOO).startswith(_ZOO) or parameters > _SMALL:
            raise
        return measure(spec.build(shape, num_classes), shape, "cpu")


class _Frozen(dict[str, Scalar]):
    """A dict that stays as it was made (types.MappingProxyType can be neither copied nor written as JSON)."""

    def _refuse(self, *_: object, **__: object) -> Any:
        raise TypeError("the arguments of a ModelSpec cannot change; make another ModelSpec")

    __setitem__ = __delitem__ = __ior__ = update = setdefault = pop = popitem = clear = _refuse

    def __reduce__(self) -> tuple[type[_Frozen], tuple[dict[str, Scalar]]]:
        return _Frozen, (dict(self),)


def _frozen(key: str, value: object, nested: int = 0) -> Scalar:
    match value:
        case list() | tuple() if len(value) <= ARGUMENT_LENGTH and nested < 2:
            return tuple(_frozen(key, item, nested + 1) for item in value)
        case None | bool():
            return value
        case str() if len(value) <= ARGUMENT_LENGTH:
            return value
        case int() | float() if abs(value) <= ARGUMENT_SIZE:  # NaN: no
            return value
    raise ModelError(
        f"model argument {key} = {value!r}",
        f"strings and lists of at most {ARGUMENT_LENGTH}, finite numbers of at most {ARGUMENT_SIZE}, booleans, None",
        "Use these.",
    )


@lru_cache(maxsize=256)
def _validate_once(_: object, spec: ModelSpec, shape: Shape, num_classes: int) -> None:
    """The first argument, the factory, is part of the key: a name may be registered anew in a notebook."""
    validate_model(spec.build(shape, num_classes, seed=0), shape)
