"""How the server reaches the sites: one call for all of them, bytes in, bytes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

ENROL, ASK, LEDGER = "enrol", "ask", "ledger"
"""The operations: a Run for an Enrolment; a Query for a Message; a Run for what is Signed of the ledger, or nothing for
nothing; or, instead, a Refusal.

Every answer is in a `Reply`, with the client's ledger beside it."""


@runtime_checkable
class Engine(Protocol):
    """Carries bytes between the server and sites that may live in other processes or elsewhere.

    It may lose, delay, repeat or garble what it carries: the server checks all that comes, and a site repeats its bytes
    for a query that it has answered.  It must not show a site's bytes to another one.
    """

    @property
    def client_ids(self) -> tuple[str, ...]:
        """The clients that are invited; the same ones, in the same order, for the whole run."""
        ...

    def exchange(
        self,
        operation: str,
        requests: Mapping[str, bytes],
        *,
        enough: int | None = None,
        deadline: float | None = None,
    ) -> Mapping[str, bytes | None]:
        """Ask clients, all at once, and wait for their replies.

        Args:
            operation: one of the three.
            requests: what each of them is asked.
            enough: so many replies end the wait for the others; None waits for all.
            deadline: seconds after which nobody is waited for any longer; None is no limit.

        Returns:
            each client's `Reply` as bytes, or None where none came: the client is absent, which is no refusal.

        Raises:
            ExchangeInterrupted: Ctrl-C while clients were asked.
        """
        ...


@runtime_checkable
class Telling(Protocol):
    """An engine that tells of replies as they come; the server sets what it calls.

    Attributes:
        came: called with a client's name when its reply has come, in the thread that called `exchange`.
    """

    came: Callable[[str], object]


class ExchangeInterrupted(KeyboardInterrupt):
    """Ctrl-C during an exchange: what had come by then was paid for, and is not lost.

    Args:
        replies: as `Engine.exchange` would have returned them.
    """

    def __init__(self, replies: Mapping[str, bytes | None]) -> None:
        super().__init__("interrupted while clients were asked")
        self.replies = replies
