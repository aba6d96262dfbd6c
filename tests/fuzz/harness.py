"""The properties that every target must have, one helper each, and what a violation looks like."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TypeVar

from private_distdd.errors import ComputationError, NotPrivateWarning, PrivateDistDDError
from private_distdd.privacy.ledger import Ledger

SECONDS = 20  # of processor time a case, which does not depend on what else runs; a usual case takes 20 milliseconds
BYTES = 3 << 29  # more than the process had at its start: 1.5 GiB
_PACKAGE = f"{os.sep}private_distdd{os.sep}"
Result = TypeVar("Result")


class Finding(AssertionError):  # noqa: N818 - a word that every fuzzer uses
    """A property does not hold.

    Args:
        what: in a few words, the same for every input that shows the same fault.
        error: the exception behind it, if any.
    """

    def __init__(self, what: str, error: BaseException | None = None) -> None:
        self.kind = what if error is None else f"{what}: {type(error).__name__} at {_place(error)}"
        super().__init__(self.kind if error is None else f"{self.kind}: {str(error)[:300]}")


class _TooLongError(BaseException):
    """Not an Exception: the library must not be able to take it for one of its own troubles."""


def _place(error: BaseException) -> str:
    """The innermost line of the library."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _PACKAGE in f.filename]
    return f"{frames[-1].filename.rpartition(_PACKAGE)[2]}:{frames[-1].lineno}" if frames else "(outside)"


# 1: an error of our own tree, or a clean result


def outcome(call: Callable[[], Result]) -> Result | PrivateDistDDError:
    """What the call returned, or the library's own error; within the limits of 3."""
    with bounded():
        try:
            return call()
        except PrivateDistDDError as error:
            if isinstance(error.__cause__, MemoryError) or "MemoryError" in str(error):
                raise Finding("memory is not bounded", error) from error
            return error
        except Exception as error:
            raise Finding("raw error", error) from error


def succeeds(call: Callable[[], Result]) -> Result:
    """4: what is valid still works afterwards."""
    result = outcome(call)
    if isinstance(result, PrivateDistDDError):
        raise Finding("a valid call fails afterwards", result) from result
    return result


# 2: nothing charged without a message


def answered(ledger: Ledger, call: Callable[[], Result]) -> Result | PrivateDistDDError:
    """As `outcome`, of a call that may charge the ledger if it returns.

    A computation that failed after the charge uses it up, said by a ComputationError; but not for a fault of the query
    that its validation should have found: such are errors of type and value.
    """
    before = len(ledger.events)
    try:
        result = outcome(call)
    except Finding as finding:
        if len(ledger.events) != before:
            raise Finding(f"charged without a message, by a {finding.kind}") from finding
        raise
    if isinstance(result, PrivateDistDDError) and len(ledger.events) != before:
        cause = result.__cause__ or result.__context__
        if type(result) is not ComputationError:
            raise Finding("charged without a message", result) from result
        if isinstance(cause, TypeError | ValueError | LookupError | AttributeError | ArithmeticError):
            raise Finding("charged for a query that could have been refused", cause) from result
    return result


def unchanged(path: Path, call: Callable[[], Result]) -> Result | PrivateDistDDError:
    """As `outcome`; a file that is refused stays as it was."""
    before = path.read_bytes()
    result = outcome(call)
    if isinstance(result, PrivateDistDDError) and path.read_bytes() != before:
        raise Finding("a refused file was changed", result) from result
    return result


# 3: bounded time and memory


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """A limit on processor time and on memory; past the latter allocations fail, so that no case hurts the machine."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise _TooLongError

    handler = signal.signal(signal.SIGPROF, stop)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = _peak()
    if os.path.exists("/proc/self/statm"):  # elsewhere the peak below tells, later
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, hard))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", NotPrivateWarning)
            yield
    except _TooLongError as error:
        raise Finding(f"more than {SECONDS} seconds", error) from error
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    if _peak() - before > BYTES:
        raise Finding("memory is not bounded")


def _peak() -> int:
    """The most memory this process ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
