"""What a query may ask: registered questions of a client's examples, by name.  Never code."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from torch import Tensor

from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError, PrivateDistDDError, QueryRefusedError
from private_distdd.limits import ComputeLimits
from private_distdd.questions.places import require_places_alike
from private_distdd.questions.question import PlainQuestion, Question
from private_distdd.validate import is_same_definition

_USUAL = ComputeLimits()
PRIVATE_QUESTIONS: dict[str, type[Any]] = {}
"""The classes of those that may be asked for with privacy, by name: each makes a `Question`."""

QUESTIONS: dict[str, type[Any]] = {}
"""The classes of all of them, by name: each makes a `PlainQuestion`."""

_Class = TypeVar("_Class", bound=type[Any])


def register_plain_question(name: str) -> Callable[[_Class], _Class]:
    """Decorator of a `PlainQuestion`'s class: a query without privacy may then name it.

    Register a question of your own in every process that holds a client, before the first query.

    Raises:
        ConfigurationError: the name is empty, or taken by another class.
    """

    def register(made: _Class) -> _Class:
        known = QUESTIONS.get(name, made)
        if not name or not is_same_definition(known, made):
            raise ConfigurationError(f"question {name!r}", "a name that is not taken", f"Taken: {sorted(QUESTIONS)}.")
        QUESTIONS[name] = made
        return made

    return register


def register_question(name: str) -> Callable[[_Class], _Class]:
    """Decorator of a `Question`'s class: any query may then name it, and audits attack its messages.

    Raises:
        ConfigurationError: the name is empty, or taken by another class.
    """

    def register(made: _Class) -> _Class:
        PRIVATE_QUESTIONS[name] = register_plain_question(name)(made)
        return made

    return register


def private_question(
    name: str,
    arguments: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    info: DatasetInfo,
    device: str,
    limits: ComputeLimits = _USUAL,
) -> Question:
    """The question that a query under a privacy plan names.

    Raises:
        QueryRefusedError: unknown name, one that exists without privacy only, one that costs more than `limits` allow,
            or one that cannot be prepared.
        ModelError: as the question's own, or a row's bits depend on its place (`require_places_alike`).
    """
    made = _known(PRIVATE_QUESTIONS, name, "with")
    with _own_errors(name):
        limits.check(made.cost(arguments, info))
        question: Question = made(arguments, tensors, info, device)
        require_places_alike(name, arguments, info, device, question)
    return question


def plain_question(
    name: str,
    arguments: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    info: DatasetInfo,
    device: str,
    limits: ComputeLimits = _USUAL,
) -> PlainQuestion:
    """The question that a query without privacy names.

    Raises:
        QueryRefusedError: unknown name, one that costs more than `limits` allow, or one that cannot be prepared.
        ModelError, ConfigurationError: as the question's own.
    """
    made = _known(QUESTIONS, name, "without")
    with _own_errors(name):
        limits.check(made.cost(arguments, info))
        question: PlainQuestion = made(arguments, tensors, info, device)
    return question


def _known(registered: Mapping[str, type[Any]], name: str, how: str) -> type[Any]:
    if name not in registered:
        raise QueryRefusedError(
            f"question {name!r}, {how} privacy", f"one of {sorted(registered)}", "Ask a question that the client knows."
        )
    return registered[name]


@contextlib.contextmanager
def _own_errors(name: str) -> Iterator[None]:
    try:
        yield
    except PrivateDistDDError:
        raise
    except Exception as error:  # anybody's query, and networks of foreign code; no data are involved yet
        raise QueryRefusedError(
            f"a query for {name!r} that cannot be prepared: {type(error).__name__}: {error}",
            "arguments and tensors as the question documents them",
            "Correct the query.",
        ) from error
