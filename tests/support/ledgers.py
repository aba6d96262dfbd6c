"""Ledgers that the tests of privacy/ledger share."""

from __future__ import annotations

import hashlib
import json
import zlib
from typing import Any

from private_distdd.privacy.events import Event, SampledGaussian
from private_distdd.privacy.ledger import Budget, Ledger, Pin

CHEAP = SampledGaussian(2.0, 0.1)
DEAR = SampledGaussian(0.5, 0.1)
DIGEST = hashlib.sha256(b"message").hexdigest()


def sealed(ledger: Ledger, event: Event, message_id: str) -> None:
    ledger.charge(event, message_id)
    ledger.seal(message_id, DIGEST)


def full_ledger() -> bytes:
    """Every kind of line that a ledger without a crash has."""
    ledger = Ledger(None, Budget(1e6, 1e-5), client_id="clinic")
    ledger._extend(*_line(ledger, Pin("a", CHEAP, 5)))  # past the budget's check, which needs the accountants
    sealed(ledger, CHEAP, "a:000000")
    ledger.charge(CHEAP, "a:000001")
    return ledger.to_bytes()


def _line(ledger: Ledger, entry: Any) -> tuple[Any, bytes]:
    from private_distdd.privacy.ledger.entries import encode

    return entry, encode(entry, len(ledger), ledger.head)


def rewritten(data: bytes, number: int, **changes: Any) -> bytes:
    """The file with the fields of one line changed and its checksum made right, as a forger would."""
    lines = data.splitlines()
    record = json.loads(lines[number]) | changes
    record = {name: value for name, value in record.items() if value is not ... and name != "crc"}
    body = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
    record["crc"] = f"{zlib.crc32(body):08x}"
    lines[number] = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
    return b"\n".join(lines) + b"\n"
