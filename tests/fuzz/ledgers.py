"""Ledgers that were changed, and chained anew."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import zlib
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from private_distdd.errors import PrivateDistDDError
from private_distdd.privacy.events import Composition, NotPrivate, SampledGaussian
from private_distdd.privacy.ledger import Budget, Ledger, parse

from .harness import Finding, outcome, succeeds, unchanged
from .mutate import byte_edits, dump, edited, edited_bytes, record_edits
from .target import target
from .valid import (
    fresh,
)


@functools.cache
def ledger_records() -> list[dict[str, Any]]:
    """The lines of a ledger with every kind of line and event, without what chains them."""
    path = fresh("ledger") / "a.jsonl"
    with Ledger(path, Budget(1000.0, 1e-5), client_id="a") as ledger:
        ledger.pin("run-1", SampledGaussian(2.0, 0.5), 5, "0" * 64)
        ledger.charge(SampledGaussian(2.0, 0.5), "run-1:000000")
        ledger.seal("run-1:000000", "1" * 64)
        ledger.charge(Composition((SampledGaussian(3.0, 1.0, 2), SampledGaussian(4.0, 0.25))), "run-2:0")
    path.write_bytes(path.read_bytes() + b'{"torn')
    with Ledger(path) as ledger:
        return [json.loads(line) for line in ledger.to_bytes().splitlines()]


def chained(records: Sequence[Any], anew: bool = True) -> bytes:
    """The records as lines, with numbers, hashes and checksums made anew."""
    lines, previous = [], "0" * 64
    for index, record in enumerate(records):
        if anew and isinstance(record, dict):
            record = {k: v for k, v in record.items() if k != "crc"} | {"index": index, "previous": previous}
            record["crc"] = f"{zlib.crc32(dump(record).encode()):08x}"
        line = dump(record).encode()
        previous = hashlib.sha256(line).hexdigest()
        lines.append(line + b"\n")
    return b"".join(lines)


def _ledger_cases() -> st.SearchStrategy[bytes]:
    records = ledger_records()
    sound = chained(records)
    assert parse(sound).to_bytes() == sound  # else no case would reach what lies behind the hashes
    remade = record_edits(records).map(lambda edits: edited(records, edits))
    remade = remade.map(lambda found: chained(found if isinstance(found, list) else [found]))
    return st.one_of(remade, remade, byte_edits().map(lambda edits: edited_bytes(sound, edits)), st.binary(max_size=64))


def _spend(ledger: Ledger) -> None:
    """What a client does with a ledger that could be read."""
    for event, run_id in ((SampledGaussian(5.0, 0.5), "late"), (NotPrivate(), "open")):
        with contextlib.suppress(PrivateDistDDError):
            ledger.pin(run_id, event, 3)
        with contextlib.suppress(PrivateDistDDError):
            ledger.charge(event, f"{run_id}:0")


@target(1000, _ledger_cases)
def ledgers(case: bytes) -> None:
    """A ledger's bytes are read, or refused."""
    history = outcome(lambda: parse(case))
    if not isinstance(history, PrivateDistDDError) and history.to_bytes() != case:
        raise Finding("a ledger that is written otherwise than it was read")


@target(400, _ledger_cases)
def ledger_files(case: bytes) -> None:
    """A ledger's file is opened, and used, or refused and left as it was."""
    path = fresh("ledger") / "a.jsonl"
    path.write_bytes(case)
    ledger = unchanged(path, lambda: Ledger(path))
    if isinstance(ledger, Ledger):
        with ledger:
            outcome(lambda: _spend(ledger))
    path.write_bytes(chained(ledger_records()))
    succeeds(lambda: Ledger(path)).close()
