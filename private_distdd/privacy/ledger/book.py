"""The client's own record of what it released: append-only, durable before anything leaves, one writer, for life.

How a message leaves: `charge` (its line is on disk), compute it, store its bytes durably, `seal` (that line, too, is on
disk), send.  Asked again, `status` says what to do.  "sealed": send the stored bytes, whose SHA-256 is `digest`.
"charged": the computation did not end, and why it did not may depend on the data: charge again, as where the bytes of
a sealed message are lost.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from filelock import FileLock

from private_distdd.encoding import sha256
from private_distdd.errors import LedgerError, QueryRefusedError
from private_distdd.files import descriptor, sync, write_durably, write_file
from private_distdd.privacy.events import Event
from private_distdd.privacy.ledger.entries import Budget, Charge, Entry, Open, Pin, Recovered, Sealed, encode
from private_distdd.privacy.ledger.file import begin, failed, identity, lock, unusable
from private_distdd.privacy.ledger.history import History, parse, repeated
from private_distdd.validate import require_path


class Ledger(History):
    """The ledger of one client's data.  Iterating yields its entries, len() counts its lines.

    Args:
        path: the file, made when absent (its folder is not), for its owner's eyes only; it lives as long as the data
            does.  A `.lock` file appears beside it, and a client's `.outbox`; with one of these and no ledger, the
            ledger was deleted, and no new one is begun.  None keeps the same lines in memory, for simulations.
        budget: the data's lifetime budget, fixed when the file is made; None for no limit, or for what the file says.
        client_id: whose data it is, `[A-Za-z0-9_-]{1,64}`; like the budget, fixed once and None for what the file says.

    Raises:
        ConfigurationError: client_id or budget is malformed.
        LedgerError: the file is in use, cannot be read or written, is damaged, is gone although its lock or outbox is
            there, or states another budget or client_id.

    Formal guarantee: when `charge` or `seal` returns, its line is durable as far as os.fsync is.  If a message leaves
    only after `seal` returned, then after any crash, at any instant and any number of times, the charges of all
    messages that left are in the file, once a message or more often.  For a crash can tear only a line whose append
    did not return, and the charge of a message that left lies before its sealed line, which did.  The torn line is
    charged for all the same (`torn_event`).

    Under a budget, the release of everything charged is (budget.epsilon, budget.delta)-differentially private, whatever
    the choice of later runs and the moment of stopping depended on; see `check`.  The one exception: a recovery charged
    for an event outside every pin may pass the budget on paper (its message never left); all else is refused then.
    """

    parse = staticmethod(parse)

    def __init__(
        self, path: str | os.PathLike[str] | None = None, budget: Budget | None = None, *, client_id: str | None = None
    ) -> None:
        super().__init__()
        opening = Open(client_id, budget)
        # The real path: whatever alias is used, all writers meet at one lock, and a rename replaces the file itself.
        self._path = None if path is None else Path(os.path.realpath(require_path("the ledger's path", path)))
        self._appending = threading.Lock()
        self._process = os.getpid()
        self._unusable: str | None = None
        self._file_lock: FileLock | None = None
        self._file: tuple[int, int] | None = None  # device and inode
        line = encode(opening, 0, self.head)
        if self._path is None:
            self._extend(opening, line)
            return
        begin(self._path, line)
        self._file_lock = lock(self._path)
        try:
            self._open(self._path, opening)
            os.chmod(self._path, 0o600)  # earlier versions made it for everybody's eyes
            self._file = identity(os.stat(self._path))
            sync(self._path.parent)  # who made it may have died before this
        except OSError as error:
            self.close()
            raise failed(self._path, error) from error
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path, asked: Open) -> None:
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        self._load(data[:whole])
        for name, given, kept in (
            ("client_id", asked.client_id, self.client_id),
            ("budget", asked.budget, self.budget),
        ):
            if given is not None and given != kept:
                raise LedgerError(
                    f"{name} = {given!r} for {path}",
                    f"{kept!r}, as its first line says",
                    f"Leave {name} out, or give the same: it holds for the data's lifetime.",
                )
        if torn := data[whole:]:
            # One rename does it: a crash in here leaves the torn file, to be recovered again with the same outcome.
            entry = Recovered(self.torn_event(), sha256(torn))
            self._check(entry)
            line = encode(entry, len(self), self.head)
            write_file(path, data[:whole] + line + b"\n", 0o600)
            self._extend(entry, line)

    @property
    def path(self) -> Path | None:
        """The file, with all links resolved; None for a ledger in memory."""
        return self._path

    def pin(
        self, run_id: str, event: Event, max_queries: int, terms: str | None = None, *, max_runs: int | None = None
    ) -> None:
        """Enrol in a run: from now on it is charged this event and no other, at most `max_queries` times.

        Under a budget the whole schedule is reserved here, once.  Pinning again with equal values changes nothing.

        Args:
            run_id: `[A-Za-z0-9_-]{1,64}`.
            event: what one message of the run costs.
            max_queries: the longest schedule, at least 1.
            terms: SHA-256, in hexadecimal, of all public constants agreed to, so that they hold after a restart, too.
            max_runs: how many runs may be pinned in all, this one included; None for any number.

        Raises:
            ConfigurationError: an argument is outside its range.
            QueryRefusedError: it would be one run too many.
            LedgerError: the run has other values, or charges, already; or the ledger cannot be written.
            BudgetExceededError: the budget cannot pay the schedule beside what is spent and reserved.
        """
        entry = Pin(run_id, event, max_queries, terms)
        with self._writing():
            if self._pins.get(run_id) == entry:
                return
            if max_runs is not None and len(self._pins) >= max_runs:  # in here: two at a time must not both pass
                raise QueryRefusedError(
                    f"run {run_id!r} after {len(self._pins)} others",
                    f"{max_runs} in the life of this ledger, as the owner says",
                    "The owner may allow more: Client(plan=, max_runs=).",
                )
            self._check(entry)
            self.check([repeated(event, max_queries)])
            self._append(entry)

    def charge(self, event: Event, message_id: str) -> None:
        """Pay for one message, before it is computed: on disk when this returns.  Nothing is written if it raises.

        An id may be charged again, where the sealed bytes were lost; it then counts again.

        Args:
            event: what the message costs; for a pinned run, the pinned event.
            message_id: "run_id:server_round", the round in 1 to 9 digits.

        Raises:
            ConfigurationError: an argument is malformed.
            QueryRefusedError: the run is pinned to another event, or has no queries left.
            BudgetExceededError: the run is not pinned, and the budget cannot pay.
            LedgerError: the ledger cannot be written; it must be opened anew, and what was half written is recovered.
        """
        with self._writing():
            self._append(self._payable(event, message_id))

    def require(self, event: Event, message_id: str) -> None:
        """Raise if `charge` would, and write nothing: for work that must not be done for a query that cannot be paid.

        Raises:
            ConfigurationError, QueryRefusedError, BudgetExceededError, LedgerError: as `charge`.
        """
        with self._writing():
            self._payable(event, message_id)

    def _payable(self, event: Event, message_id: str) -> Charge:
        entry = Charge(event, message_id)
        self._check(entry)
        if message_id.partition(":")[0] not in self._pins:  # a pinned run's queries were reserved with its pin
            self.check([event])
        return entry

    def seal(self, message_id: str, digest: str) -> None:
        """Note, durably, that the message's bytes are stored durably and may leave.  Sealing the same again is free.

        Args:
            message_id: one that is charged.
            digest: SHA-256 of the bytes, 64 lower-case hexadecimal digits.

        Raises:
            ConfigurationError: an argument is malformed.
            LedgerError: the message is not charged, or is sealed with other bytes; or the ledger cannot be written.
        """
        entry = Sealed(message_id, digest)
        with self._writing():
            if self._digests.get(message_id) == digest:
                return
            self._check(entry)
            self._append(entry)

    def __reduce__(self) -> tuple[type[Ledger], tuple[Path]]:
        """Pickled it is its path, and opened anew where it arrives: `close` it here first.

        Raises:
            LedgerError: it is in memory, and a copy would forget what the other spends.
        """
        if self._path is None:
            raise LedgerError(
                "a copy of a ledger in memory",
                "one of a ledger that is a file",
                "Give the client Ledger(path): what two copies spend must meet in one file.",
            )
        return Ledger, (self._path,)

    def close(self) -> None:
        """Free the file for another writer.  The ledger can still be read, not written.  Closing again is allowed."""
        if os.getpid() != self._process:  # a forked child's copy does not hold the file
            return
        with self._appending:
            self._unusable = self._unusable or "is closed"
            if self._file_lock is not None:
                self._file_lock.release()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        if os.getpid() != self._process:  # asked before locking: another thread may have held the lock when it forked
            raise unusable("was opened by another process")
        with self._appending:
            if self._unusable is not None:
                raise unusable(self._unusable)
            yield

    def _append(self, entry: Entry) -> None:
        line = encode(entry, len(self), self.head)
        if self._path is not None:
            # Until the line is durable nobody knows what is on the disk; only opening the file anew can tell.
            self._unusable = "failed while it was writing a line"
            try:
                with descriptor(self._path, os.O_RDWR | os.O_APPEND) as file:
                    found, last = os.fstat(file), self._lines[-1] + b"\n"
                    if identity(found) != self._file:
                        raise OSError("it is not the file that this process opened")
                    if found.st_size != self._size:
                        raise OSError("its length changed under this process")
                    if os.pread(file, len(last), found.st_size - len(last)) != last:
                        raise OSError("its last line changed under this process")
                    write_durably(file, line + b"\n")
            except OSError as error:
                raise failed(self._path, error) from error
            self._unusable = None
        self._extend(entry, line)
