"""The lines of one ledger, checked against the rules that no history may break, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from private_distdd.encoding import sha256
from private_distdd.errors import BudgetExceededError, LedgerError, PrivateDistDDError, QueryRefusedError
from private_distdd.limits import LEDGER_BYTES
from private_distdd.privacy.events import Composition, Event, NotPrivate, merge
from private_distdd.privacy.ledger.entries import START, Budget, Charge, Entry, Open, Pin, Recovered, Sealed, decode

if TYPE_CHECKING:
    from private_distdd.privacy.accountants import Accountant, AccountantName

RESTORE = "Restore it from a copy; do not go on with a new ledger, for what was spent stays spent."
Status: TypeAlias = Literal["new", "charged", "sealed"]


def repeated(event: Event, times: int) -> Event:
    """`times` >= 1 releases of the event, as one event."""
    return Composition(tuple(replace(part, count=part.count * times) for part in merge([event])))


class History:
    """The lines of one ledger, checked, and what follows from them.  Iterating yields the entries, len() counts lines.

    Formal guarantee: every history that exists obeys these rules, whoever wrote its lines: the chain is unbroken; a
    pinned run is charged its pinned event and nothing else, at most max_queries times, recoveries included; a message
    is sealed only after a charge of its own, once a charge; a recovery charges exactly `torn_event()`.
    """

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._size = 0  # in bytes, newlines included
        self._entries: list[Entry] = []
        self._pins: dict[str, Pin] = {}
        self._left: dict[str, Pin] = {}  # the pins that have queries left, in order
        self._used: dict[str, int] = {}  # charges by run, recoveries of pinned runs included
        self._newest: dict[str, int] = {}  # the latest round charged, by run
        self._digests: dict[str, str | None] = {}  # message id -> digest of the sealed bytes, None while only charged
        self._last_outside: Event | None = None  # last event charged outside any pinned run

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Every line's content, in order."""
        return tuple(self._entries)

    @property
    def opening(self) -> Open:
        """The first line: client_id and budget."""
        first = self._entries[0]
        assert isinstance(first, Open)  # noqa: S101 - `_check` lets nothing else be first
        return first

    @property
    def budget(self) -> Budget | None:
        """The data's lifetime budget."""
        return self.opening.budget

    @property
    def client_id(self) -> str | None:
        """Whose data it is, where the first line says so."""
        return self.opening.client_id

    @property
    def events(self) -> tuple[Event, ...]:
        """Every event charged, in order, those of recoveries included."""
        return tuple(e.event for e in self._entries if isinstance(e, Charge | Recovered) and e.event is not None)

    @property
    def head(self) -> str:
        """SHA-256 of the last line, which the next line will name; with len() it shows that lines were cut off."""
        return sha256(self._lines[-1]) if self._lines else START

    def to_bytes(self) -> bytes:
        """The whole ledger as a file holds it."""
        return b"".join(line + b"\n" for line in self._lines)

    def status(self, message_id: str) -> Status:
        """Was the message never paid for, paid for but never let out, or sealed (stored, and perhaps out)?"""
        if message_id not in self._digests:
            return "new"
        return "charged" if self._digests[message_id] is None else "sealed"

    def digest(self, message_id: str) -> str | None:
        """SHA-256 of the bytes that may leave under this id, or None while there are none."""
        return self._digests.get(message_id)

    def count(self, prefix: str) -> int:
        """Number of charges whose message_id begins so; a run's prefix is "run_id:".  Recoveries have no message_id."""
        return sum(isinstance(e, Charge) and e.message_id.startswith(prefix) for e in self._entries)

    def newest_round(self, run_id: str) -> int:
        """The latest round of the run that was charged; -1 where none was."""
        return self._newest.get(run_id, -1)

    def remaining(self, run_id: str) -> int:
        """Queries that a pinned run has left; 0 for a run that is not pinned."""
        pin = self._pins.get(run_id)
        return pin.max_queries - self._used.get(run_id, 0) if pin else 0

    def reserved(self) -> tuple[Event, ...]:
        """What the pinned runs may still spend."""
        return tuple(repeated(pin.event, self.remaining(run_id)) for run_id, pin in self._left.items())

    def check(self, events: Iterable[Event]) -> None:
        """Raise if the budget cannot pay these events beside what is spent and what pinned runs have reserved.

        Formal guarantee: schedules accepted before the first charge looked at no message, so a bound for fixed
        composition holds for them: the smaller of PRV's and RDP's.  After it every choice may have looked, and must
        pass the RDP filter, over everything spent and reserved.  Both together keep the budget: either the first
        schedules alone pass the filter, and then all that is ever accepted does; or they do not, and then nothing
        more is ever accepted.  Which of the two it is was settled before the first message.

        Raises:
            BudgetExceededError: it cannot; nothing is spent.
        """
        budget, asked = self.budget, list(events)
        if budget is None or not asked:
            return
        if any(isinstance(part, NotPrivate) for part in merge(asked)):
            raise BudgetExceededError("a release without privacy", f"{budget}", "Set noise, or leave this client out.")
        from private_distdd.privacy import accountants

        before = [*self.events, *self.reserved()]
        if self.events:
            fits = accountants.RdpFilter(budget.epsilon, budget.delta).affords(before, Composition(tuple(asked)))
        else:
            fits = accountants.best_epsilon([*before, *asked], budget.delta) <= budget.epsilon
        if not fits:
            raise BudgetExceededError(
                f"{merge(asked)} beside what is spent and reserved",
                f"what fits into {budget}, {'by the RDP filter' if self.events else 'by PRV or RDP'}",
                "Ask fewer queries, or with more noise; this client's data can pay no more.",
            )

    def affords(self, events: Iterable[Event]) -> bool:
        """Would `check` let these events pass?"""
        try:
            self.check(events)
        except BudgetExceededError:
            return False
        return True

    def epsilon(self, delta: float, accountant: AccountantName | Accountant = "prv") -> float:
        """Upper bound on the epsilon of everything charged so far, at `delta`; infinite after a release without noise.

        Args:
            delta: 0 < delta < 1.
            accountant: "prv", "rdp" or "gdp", or an accountant of your own settings; see `privacy.accountants`.

        Raises:
            ConfigurationError: an argument is outside its range.
        """
        from private_distdd.privacy.accountants import epsilon

        return epsilon(self.events, delta, accountant)

    def torn_event(self) -> Event | None:
        """What a torn line at this place is charged: one query of every pinned run that has queries left.

        Formal guarantee: if the torn line charged a pinned run, this costs at least as much, whichever run it was, for
        a run without queries left is refused before a byte is written.  It draws on what the pins reserve, so it never
        breaks a budget.  With no such run, the last event charged outside any pin is charged again; with none of
        those either, no charge can have been torn, and the answer is None.
        """
        left = [pin.event for pin in self._left.values()]
        return (left[0] if len(left) == 1 else Composition(tuple(left))) if left else self._last_outside

    def _check(self, entry: Entry) -> None:
        """Raise if the entry may not come next: QueryRefusedError for a charge, LedgerError for everything else."""
        match entry:
            case Open() if not self._entries:
                return
            case _ if not self._entries or isinstance(entry, Open):
                problem = f"line {len(self) + 1} is of kind {entry.kind!r}"
                raise LedgerError(problem, "an open line as the first line, and only there", RESTORE)
            case Pin(run_id=run_id) if run_id in self._pins or run_id in self._used:
                raise LedgerError(
                    f"run {run_id!r} is pinned already, or was charged before it was pinned",
                    "one pin a run, before its first charge; repeating it with equal values changes nothing",
                    "A run with another event or length needs another run_id.",
                )
            case Charge(event=event, message_id=message_id):
                run_id = message_id.partition(":")[0]
                pin = self._pins.get(run_id)
                if pin and event != pin.event:
                    raise QueryRefusedError(
                        f"message {message_id!r} would cost {event}", f"the pinned {pin.event}", "Ask as was agreed."
                    )
                if pin and not self.remaining(run_id):
                    raise QueryRefusedError(
                        f"message {message_id!r} would be charge {pin.max_queries + 1} of its run",
                        f"the pinned {pin.max_queries}",
                        "The run is over for this client; every charge counts, recovered and repeated ones too.",
                    )
            case Sealed(message_id=message_id) if self.status(message_id) != "charged":
                raise LedgerError(
                    f"message {message_id!r} is {self.status(message_id)!r}",
                    "sealing what was charged and not sealed since",
                    "Charge it first: other noise under one charge would be a free release.",
                )
            case Recovered(event=event) if event != self.torn_event():
                raise LedgerError(f"a recovery charged {event}", f"{self.torn_event()} at this place", RESTORE)

    def _extend(self, entry: Entry, line: bytes) -> None:
        self._entries.append(entry)
        self._lines.append(line)
        self._size += len(line) + 1
        match entry:
            case Pin(run_id=run_id):
                self._pins[run_id] = self._left[run_id] = entry
            case Charge(event=event, message_id=message_id):
                run_id = message_id.partition(":")[0]
                self._use(run_id)
                self._newest[run_id] = max(self.newest_round(run_id), int(message_id.partition(":")[2]))
                self._digests[message_id] = None
                if run_id not in self._pins:
                    self._last_outside = event
            case Sealed(message_id=message_id, digest=digest):
                self._digests[message_id] = digest
            case Recovered():
                for run_id in list(self._left):
                    self._use(run_id)

    def _use(self, run_id: str) -> None:
        self._used[run_id] = self._used.get(run_id, 0) + 1
        if run_id in self._left and not self.remaining(run_id):
            del self._left[run_id]

    def _load(self, data: bytes) -> None:
        """Take in whole lines.

        Raises:
            LedgerError: there is no line, or one breaks a rule; the message names it, counting from 1.
        """
        if not data:
            raise LedgerError("an empty ledger", "at least its open line", RESTORE)
        if len(data) > LEDGER_BYTES:
            raise LedgerError(f"a ledger of {len(data)} bytes", f"at most {LEDGER_BYTES}", RESTORE)
        lines = data.split(b"\n")
        for index, line in enumerate(lines[:-1]):
            try:
                entry = decode(line, index, self.head)
                self._check(entry)
            except (ValueError, TypeError, RecursionError, PrivateDistDDError) as error:
                raise LedgerError(f"line {index + 1} is damaged: {error}", "the lines as written", RESTORE) from None
            self._extend(entry, line)
        if lines[-1]:
            raise LedgerError(
                f"line {len(lines)} is torn: it has no end",
                "whole lines",
                "A client's own ledger recovers when Ledger(path) opens it; a copy must be made again.",
            )


def parse(data: bytes) -> History:
    """Check a ledger's bytes without touching its file or lock.

    Raises:
        LedgerError: any damage, a torn last line included; the message names the line, counting from 1.
    """
    history = History()
    history._load(data)
    return history
