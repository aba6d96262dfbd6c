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

import json
import re
import sys
import zlib
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeAlias

from private_distdd.encoding import to_json
from private_distdd.errors import ConfigurationError
from private_distdd.privacy.events import (
    Composition,
    Event,
    NotPrivate,
    SampledGaussian,
    event_from_json,
    event_to_json,
)
from private_distdd.validate import is_real, is_whole

VERSION = 1
START = "0" * 64  # what the first line names as the hash of the line before
_NAME = r"[A-Za-z0-9_-]{1,64}"
_MESSAGE_ID = _NAME + r":[0-9]{1,9}"
_SHA256 = r"[0-9a-f]{64}"


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
            if not is_real(value) or not 0 < value < most:
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
        if not is_whole(self.max_queries) or self.max_queries < 1:
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
    return to_json(record | {"crc": f"{zlib.crc32(to_json(record).encode()):08x}"}).encode()


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
