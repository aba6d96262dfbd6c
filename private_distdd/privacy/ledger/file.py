"""A ledger's file: lock, first line, whole writes; for its owner's eyes only."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

from filelock import FileLock, Timeout

from private_distdd.errors import LedgerError
from private_distdd.files import descriptor, write_durably

LOCK, OUTBOX = ".lock", ".outbox"  # what lies beside a ledger, named after it


def unusable(why: str) -> LedgerError:
    return LedgerError(f"this ledger {why}", "one open Ledger a file", "Open it anew, in the process that writes.")


def failed(path: Path, error: OSError) -> LedgerError:
    return LedgerError(
        f"{path}: {error.strerror or error}",
        "a readable and writable file in an existing folder, on a disk with room",
        "Mend that and open the ledger anew; no message may leave before its line is on disk.",
    )


def lock(path: Path) -> FileLock:
    lock = FileLock(f"{path}{LOCK}", timeout=0, thread_local=False)
    try:
        if not path.parent.is_dir():  # FileLock would make it, and a mistyped path would begin a new life
            raise OSError("its folder does not exist")
        lock.acquire()
    except Timeout:
        raise LedgerError(
            f"{path} is in use by another process, or by another Ledger of this one",
            "one writer",
            "Wait for it, end it, or close() that Ledger; never delete the .lock file, the system frees it by itself. "
            "To read only, use Ledger.parse on the file's bytes.",
        ) from None
    except (OSError, NotImplementedError) as error:
        raise failed(path, OSError(f"cannot lock it: {error}")) from error
    return lock


def begin(path: Path, line: bytes) -> None:
    """Make a ledger of this one line where there has never been one.

    Before its lock: so a lock, or an outbox, without a ledger says that the ledger was deleted.
    """
    traces = [name for name in (LOCK, OUTBOX) if Path(f"{path}{name}").exists()]  # looked for before the ledger itself
    if path.exists() or not path.parent.is_dir():
        return
    if traces:
        raise LedgerError(
            f"{path} is gone, but {' and '.join(path.name + name for name in traces)} of it remain",
            "the ledger itself: what was spent stays spent",
            "Restore it from a copy.  Only where these data were never used may the remains be deleted, too.",
        )
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with descriptor(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
            write_durably(file, line + b"\n")
        try:
            os.link(partial, path)  # unlike a rename it replaces nothing: another process may have been faster
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            with contextlib.suppress(FileExistsError), descriptor(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
                write_durably(file, line + b"\n")
        partial.unlink(missing_ok=True)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise failed(path, error) from error


def identity(found: os.stat_result) -> tuple[int, int]:
    """What stays the same for as long as it is the same file."""
    return found.st_dev, found.st_ino
