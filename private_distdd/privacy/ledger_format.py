"""What a ledger's bytes say: one canonical JSON object a line, each bound to the line before.  Pure: no files or locks.

    {"budget":null,"client_id":"a","crc":"1c291ca3","index":0,"kind":"open","previous":"000...","version":1}
    {..., "kind":"pin", "run_id":"r", "event":{...}, "max_queries":500, "terms":"b1e5..."}  # what it enrolled in
    {..., "kind":"charge", "message_id":"r:0", "event":{...}}                    # before the message is computed
    {..., "kind":"sealed", "message_id":"r:0", "digest":"9f86..."}               # its bytes are durable and may leave
    {..., "kind":"recovered", "event":{...} or null, "torn_sha256":"2c26..."}    # a crash tore a line: charged for

`previous` is the SHA-256 of the line before (without its newline), `crc` the CRC-32 of the same line without that
field: the last line has no successor that would vouch for it against a flipped bit.  Neither keeps out a forger, who
can rewrite a whole file; for that a release's card holds the head hash and the number of lines.

Compatibility promise: version 1 will always be read as described here.  Nothing computed from data is ever written,
nor a time of day.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, TypeAlias

from private_distdd.errors import ConfigurationError, LedgerError, PrivateDistDDError, QueryRefusedError
from private_distdd.limits import LEDGER_BYTES
from private_distdd.privacy.events import (
    Composition,
    Event,
    NotPrivate,
    SampledGaussian,
    event_from_json,
    event_to_json,
    merge,
)

VERSION = 1
_START = "0" * 64  # what the first line names as the hash of the line before
_NAME = r"[A-Za-z0-9_-]{1,64}"
_MESSAGE_ID = _NAME + r":[0-9]{1,9}"
_SHA256 = r"[0-9a-f]{64}"
_RESTORE = "Restore it from a copy; do not go on with a new ledger, for what was spent stays spent."

Status: TypeAlias = Literal["new", "charged", "sealed"]


def _check_text(name: str, value: object, pattern: str) -> None:
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        raise ConfigurationError(f"{name} = {value!r}", f"text of the form {pattern}", "Choose another name.")


def _check_event(event: object) -> None:
    if not isinstance(event, SampledGaussian | NotPrivate | Composition):
        raise ConfigurationError(f"event = {event!r}", "an event of privacy.events", "Say what the message costs.")


@dataclass(frozen=True)
class Budget:
    """The most that may ever be spent on one client's data: (epsilon, delta), over all runs, for its lifetime.

    Args:
        epsilon: finite and > 0.
        delta: 0 < delta < 1; below one over the number of examples, as ever.

    Raises:
        ConfigurationError: an argument is outside its range.
    """

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        for name, value, most in (("epsilon", self.epsilon, sys.float_info.max), ("delta", self.delta, 1.0)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < most:
                raise ConfigurationError(
                    f"{name} = {value!r}", f"0 < {name} < {most:g}", "For no limit, give no budget at all."
                )
            object.__setattr__(self, name, float(value))


@dataclass(frozen=True)
class Open:
    """First line: whose data this is (or None) and the lifetime budget (or None)."""

    client_id: str | None
    budget: Budget | None
    kind: ClassVar[str] = "open"

    def __post_init__(self) -> None:
        if self.client_id is not None:
            _check_text("client_id", self.client_id, _NAME)
        if not isinstance(self.budget, Budget | None):
            raise ConfigurationError(f"budget = {self.budget!r}", "a Budget, or None", "Pass Budget(epsilon, delta).")


@dataclass(frozen=True)
class Pin:
    """The client enrolled in a run: at most `max_queries` >= 1 charges of exactly this event.

    `terms` is the SHA-256 of all public constants it agreed to, or None where nobody stated them.
    """

    run_id: str
    event: Event
    max_queries: int
    terms: str | None = None
    kind: ClassVar[str] = "pin"

    def __post_init__(self) -> None:
        _check_text("run_id", self.run_id, _NAME)
        _check_event(self.event)
        if isinstance(self.max_queries, bool) or not isinstance(self.max_queries, int) or self.max_queries < 1:
            raise ConfigurationError(
                f"max_queries = {self.max_queries!r}", "a whole number of at least 1", "Pin the longest schedule."
            )
        if self.terms is not None:
            _check_text("terms", self.terms, _SHA256)


@dataclass(frozen=True)
class Charge:
    """One message was paid for, before it was computed.  message_id is "run_id:server_round"."""

    event: Event
    message_id: str
    kind: ClassVar[str] = "charge"

    def __post_init__(self) -> None:
        _check_event(self.event)
        _check_text("message_id", self.message_id, _MESSAGE_ID)


@dataclass(frozen=True)
class Sealed:
    """The message's bytes, of this SHA-256, are stored durably: these bytes, and no others, may leave."""

    message_id: str
    digest: str
    kind: ClassVar[str] = "sealed"

    def __post_init__(self) -> None:
        _check_text("message_id", self.message_id, _MESSAGE_ID)
        _check_text("digest", self.digest, _SHA256)


@dataclass(frozen=True)
class Recovered:
    """A crash tore a line, whose bytes had this SHA-256; `event` is charged for it, None where none can be torn."""

    event: Event | None
    torn_sha256: str
    kind: ClassVar[str] = "recovered"

    def __post_init__(self) -> None:
        if self.event is not None:
            _check_event(self.event)
        _check_text("torn_sha256", self.torn_sha256, _SHA256)


Entry: TypeAlias = Open | Pin | Charge | Sealed | Recovered
_KINDS: dict[str, type[Entry]] = {kind.kind: kind for kind in (Open, Pin, Charge, Sealed, Recovered)}


def repeated(event: Event, times: int) -> Event:
    """`times` >= 1 releases of the event, as one event."""
    return Composition(tuple(replace(part, count=part.count * times) for part in merge([event])))


def sha256(data: bytes) -> str:
    """SHA-256 in lower-case hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _canonical(record: dict[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def encode(entry: Entry, index: int, previous: str) -> bytes:
    """The one line, without its newline, that states `entry` at this place of the chain."""
    record: dict[str, Any] = {"version": VERSION, "index": index, "previous": previous, "kind": entry.kind}
    for field in fields(entry):
        value = getattr(entry, field.name)
        if isinstance(value, Budget):
            value = {"epsilon": value.epsilon, "delta": value.delta}
        elif field.name == "event" and value is not None:
            value = event_to_json(value)
        record[field.name] = value
    return _canonical(record | {"crc": f"{zlib.crc32(_canonical(record)):08x}"})


def decode(line: bytes, index: int, previous: str) -> Entry:
    """The inverse of `encode`.

    Raises:
        ValueError, TypeError, ConfigurationError: the line is not, byte for byte, what `encode` writes at this place.
    """
    record = json.loads(line.decode("ascii"))
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    if record.get("version") != VERSION:
        raise ValueError(f"version {record.get('version')!r} is not {VERSION}: read it with the release that wrote it")
    kind = record.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"unknown kind {kind!r}")
    if record.get("index") != index or record.get("previous") != previous:
        raise ValueError("it does not follow the line before: a line was changed, removed or moved")
    own = {field.name for field in fields(_KINDS[kind])}
    if record.keys() != own | {"version", "index", "previous", "kind", "crc"}:
        raise ValueError(f"missing or unknown fields among {sorted(record)}")
    values = {name: record[name] for name in own}
    if values.get("event") is not None:
        values["event"] = event_from_json(values["event"])
    if values.get("budget") is not None:
        values["budget"] = Budget(**values["budget"])
    entry: Entry = _KINDS[kind](**values)
    if encode(entry, index, previous) != line:
        raise ValueError("its bytes are not the canonical form with its checksum: something changed it")
    return entry


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
    def events(self) -> tuple[Event, ...]:
        """Every event charged, in order, those of recoveries included."""
        return tuple(e.event for e in self._entries if isinstance(e, Charge | Recovered) and e.event is not None)

    @property
    def head(self) -> str:
        """SHA-256 of the last line, which the next line will name; with len() it shows that lines were cut off."""
        return sha256(self._lines[-1]) if self._lines else _START

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

    def remaining(self, run_id: str) -> int:
        """Queries that a pinned run has left; 0 for a run that is not pinned."""
        pin = self._pins.get(run_id)
        return pin.max_queries - self._used.get(run_id, 0) if pin else 0

    def reserved(self) -> tuple[Event, ...]:
        """What the pinned runs may still spend."""
        return tuple(repeated(pin.event, self.remaining(run_id)) for run_id, pin in self._left.items())

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
                raise LedgerError(problem, "an open line as the first line, and only there", _RESTORE)
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
                raise LedgerError(f"a recovery charged {event}", f"{self.torn_event()} at this place", _RESTORE)

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
            raise LedgerError("an empty ledger", "at least its open line", _RESTORE)
        if len(data) > LEDGER_BYTES:
            raise LedgerError(f"a ledger of {len(data)} bytes", f"at most {LEDGER_BYTES}", _RESTORE)
        lines = data.split(b"\n")
        for index, line in enumerate(lines[:-1]):
            try:
                entry = decode(line, index, self.head)
                self._check(entry)
            except (ValueError, TypeError, RecursionError, PrivateDistDDError) as error:
                raise LedgerError(f"line {index + 1} is damaged: {error}", "the lines as written", _RESTORE) from None
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
