"""The library's own error tree: each error says what was given, what is allowed, and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from private_distdd.release.release import Release

_LONGEST = 400  # characters of one part of an error's text: what was given may be anybody's


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ... ({len(text):,} characters)"


class PrivateDistDDError(Exception):
    """Root of every error this library raises on purpose.

    Args:
        given: what was found, with its value (never a value computed from private data).
        allowed: the range or form that is accepted.
        remedy: what the reader should do about it.
    """

    def __init__(self, given: str, allowed: str, remedy: str) -> None:
        super().__init__(given, allowed, remedy)
        self.given, self.allowed, self.remedy = given, allowed, remedy

    def __str__(self) -> str:
        return f"{_shortened(self.given)}; allowed: {_shortened(self.allowed)}. {_shortened(self.remedy)}"


class ConfigurationError(PrivateDistDDError, ValueError):
    """An argument is out of its range, or two arguments contradict each other."""


class DataError(PrivateDistDDError, ValueError):
    """A data set cannot be used: labels, shapes, pixels or files are not what they must be."""


class ModelError(PrivateDistDDError, ValueError):
    """A network breaks an assumption of the privacy theorem, is not registered, or has weights that do not fit it."""


class QueryRefusedError(PrivateDistDDError):
    """A client declines a query: other values than it pinned, past its last query, malformed, or not enrolled."""


class NotEnrolledError(QueryRefusedError):
    """A client was asked in a run that it does not know: it never agreed to it, or was started anew since."""


class ConsentPendingError(QueryRefusedError):
    """A client's owner has not yet agreed to this run: it waits for consent, and may be offered again."""


class ComputationError(PrivateDistDDError):
    """A client charged a query and could not finish its answer: the charge is used up, a new try is a new charge.

    The cause stays with the client: it may depend on the data.
    """


class BudgetExceededError(QueryRefusedError):
    """A query, or a whole schedule of queries, would cost more than the client's budget has left."""


class LedgerError(PrivateDistDDError):
    """A ledger cannot be read or written, is damaged, or is in use by another process."""


class ReleaseError(PrivateDistDDError):
    """A release folder cannot be written, read or verified.

    Attributes:
        release: what a run has made and could not save, so that it can be saved elsewhere; else None.
    """

    release: Release | None = None


class CheckpointError(PrivateDistDDError):
    """A checkpoint is corrupt, belongs to another run, is there already, or cannot be written."""


class Interrupted(KeyboardInterrupt):  # no Exception: whoever catches those must not go on after Ctrl-C
    """Ctrl-C during a run, raised once what was paid for is a release.

    Args:
        release: S as it is, with the true bill; it verifies as any other.
        folder: where it was saved; None where the run was given no folder.
    """

    def __init__(self, release: Release, folder: Path | None = None) -> None:
        where = "in .release of this exception" if folder is None else f"in {folder}"
        super().__init__(f"stopped by Ctrl-C; the release of what was paid for is {where}")
        self.release, self.folder = release, folder


class NotPrivateWarning(UserWarning):
    """A run without `privacy`: its messages and its release carry no guarantee."""
