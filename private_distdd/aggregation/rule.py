"""What an aggregation rule is, and how one is named: by a text, an object, or a callable of the user's own.

All aggregation is post-processing of the messages: free of charge, and no rule changes what a message costs.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias, TypeVar

from torch import Tensor

from private_distdd.errors import ConfigurationError
from private_distdd.validate import is_same_definition

Aggregate: TypeAlias = Callable[[Tensor, "Tensor | None"], Tensor]
"""From messages, float [clients, groups, ...], and counts, int64 [clients, groups] or None, to float [groups, ...].

With privacy the messages are noisy sums over a public divisor and every client counts in every class.  Without privacy
they come with counts, and are plain sums: then a rule stands for the mean over examples, or works on client means."""


@dataclass(frozen=True)
class Rule(ABC):
    """A registered rule with its parameters.  Immutable; equal parameters, equal rules."""

    name: ClassVar[str]

    @abstractmethod
    def __call__(self, messages: Tensor, counts: Tensor | None = None) -> Tensor:
        """See `Aggregate`."""

    def require(self, num_clients: float) -> None:  # noqa: B027 - most rules take any number
        """Refuse so few clients a round that the rule would be another one.

        Raises:
            ConfigurationError: there are too few.
        """

    def breakdown(self, messages: int) -> int:
        """Of so many messages about a group, the number that may be anything; 0, unless a rule says more.

        However they are chosen, the result stays within a distance of the other messages that these alone decide (the
        finite-sample breakdown point of Donoho and Huber 1983 is this number and one, by messages).  Within it the
        result may go where the corrupt ones like.  No rule that moves with its messages survives half of them: either
        half may then be the honest one.
        """
        return 0

    def __str__(self) -> str:
        """What cards and checkpoints say, and `rule_of` reads: the name, and parameters that it has."""
        values = ", ".join(f"{field.name}={getattr(self, field.name)!r}" for field in dataclasses.fields(self))
        return f"{self.name}({values})" if values else self.name


@dataclass(frozen=True)
class Own(Rule):
    """A callable of the user's own; it runs at the server, on what it may see anyway.

    Args:
        aggregate: see `Aggregate`.
    """

    name: ClassVar[str] = "own"
    aggregate: Aggregate

    def __call__(self, messages: Tensor, counts: Tensor | None = None) -> Tensor:
        """See `Aggregate`.

        Raises:
            ConfigurationError: the callable does not return a tensor of the messages' own shape.
        """
        found = self.aggregate(messages, counts)
        if not isinstance(found, Tensor) or found.shape != messages.shape[1:]:
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ConfigurationError(
                f"{self} made {shape} of {list(messages.shape)}", f"a tensor {list(messages.shape[1:])}", "Correct it."
            )
        return found.to(messages.dtype)

    def __str__(self) -> str:
        kind = self.aggregate if hasattr(self.aggregate, "__qualname__") else type(self.aggregate)
        return f"own: {kind.__module__}.{kind.__qualname__}"


_RULES: dict[str, type[Rule]] = {}
_Class = TypeVar("_Class", bound=type[Rule])


def register_rule(made: _Class) -> _Class:
    """Decorator of a rule's class: its `name` may then be given in its place.

    Raises:
        ConfigurationError: the name is taken by another class.
    """
    known = _RULES.get(made.name, made)
    if not is_same_definition(known, made):
        raise ConfigurationError(f"rule {made.name!r}", "a name that is not taken", f"Taken: {sorted(_RULES)}.")
    _RULES[made.name] = made
    return made


def rule_of(aggregator: str | Aggregate) -> Rule:
    """The rule that is meant.

    Args:
        aggregator: a rule; a name, with parameters or without, as "median" or "trimmed_mean(share=0.2)"; or a callable.

    Raises:
        ConfigurationError: unknown name, parameters that the rule does not take, or a callable of other arguments.
    """
    if isinstance(aggregator, Rule):
        return aggregator
    if callable(aggregator):
        _require_two_arguments(aggregator)
        return Own(aggregator)
    parts = re.fullmatch(r"([a-z_]+)(?:\((.*)\))?", aggregator) if isinstance(aggregator, str) else None
    if parts is None or parts[1] not in _RULES:
        raise ConfigurationError(
            f"aggregator = {aggregator!r}", f"one of {sorted(_RULES)}, or a callable", "Choose one of these."
        )
    made = _RULES[parts[1]]
    try:
        return made(**_parameters(parts[2] or ""))
    except (TypeError, ValueError, SyntaxError) as error:
        if isinstance(error, ConfigurationError):
            raise
        names = [field.name for field in dataclasses.fields(made)]
        raise ConfigurationError(
            f"aggregator = {aggregator!r}", f"the parameters {names}, as name=value", "Correct them."
        ) from error


def _require_two_arguments(aggregate: Aggregate) -> None:
    try:
        inspect.signature(aggregate).bind(None, None)
    except TypeError as error:  # before a message is paid for
        raise ConfigurationError(
            f"an aggregator of other arguments: {error}",
            "a callable of (messages, counts)",
            "Write it so: lambda messages, counts: messages.mean(dim=0); counts are None with privacy.",
        ) from error
    except ValueError:  # of what is written in C nothing may be known
        pass


def named_rule(name: str) -> Rule:
    """The rule of this name, for rules that are steps before another: as their own texts must name it.

    Raises:
        ConfigurationError: it is no text, or names no rule.
    """
    if not isinstance(name, str):
        raise ConfigurationError(f"rule = {name!r}", "a rule's text", "As 'median' or 'trimmed_mean(share=0.2)'.")
    return rule_of(name)


def _parameters(text: str) -> dict[str, Any]:
    """The values of "name=value, ...", numbers and texts alone."""
    call = ast.parse(f"f({text})", mode="eval").body
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
        raise ValueError("parameters go by name")
    return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
