"""One way in, and the list of all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st


@dataclass(frozen=True)
class Target:
    """One way in.

    Args:
        name: of the test.
        cases: how many in CI's budget.
        strategy: made late, for it may need a run.
        check: raises a Finding.
    """

    name: str
    cases: int
    strategy: Callable[[], st.SearchStrategy[Any]]
    check: Callable[[Any], None]


TARGETS: list[Target] = []


def target(
    cases: int, strategy: Callable[[], st.SearchStrategy[Any]]
) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Decorator: register the check of one case."""

    def register(check: Callable[[Any], None]) -> Callable[[Any], None]:
        TARGETS.append(Target(check.__name__, cases, strategy, check))
        return check

    return register
