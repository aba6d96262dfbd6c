"""Damage to a ledger: any changed, lost or moved byte is noticed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import DIGEST, full_ledger, rewritten

from private_distdd.errors import LedgerError
from private_distdd.privacy.ledger import Ledger


@given(st.data())
def test_any_changed_byte_is_noticed(data: st.DataObject) -> None:
    original = full_ledger()
    place = data.draw(st.integers(0, len(original) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != original[place]))
    with pytest.raises(LedgerError, match="line "):
        Ledger.parse(original[:place] + bytes([byte]) + original[place + 1 :])


def test_every_byte_of_the_last_line_is_guarded_though_no_line_follows() -> None:
    original = full_ledger()
    start = original.rindex(b"\n", 0, -1) + 1
    for place in range(start, len(original)):
        for bit in range(8):
            changed = bytearray(original)
            changed[place] ^= 1 << bit
            with pytest.raises(LedgerError, match="line 5"):
                Ledger.parse(bytes(changed))


@pytest.mark.parametrize(
    ("number", "changes"),
    [
        (0, {"version": 2}),
        (0, {"kind": "begin"}),
        (0, {"budget": {"epsilon": 1e6, "delta": 1e-5, "unit": "client"}}),
        (0, {"budget": {"epsilon": "1", "delta": 1e-5}}),
        (0, {"budget": [1, 2]}),
        (1, {"comment": "hello"}),
        (1, {"max_queries": ...}),
        (1, {"max_queries": 5.0}),
        (1, {"index": True}),
        (1, {"kind": "open", "client_id": None, "budget": None, "run_id": ..., "event": ..., "max_queries": ...}),
        (1, {"event": {"kind": "gaussian", "count": 1}}),
        (2, {"event": {"kind": "sampled_gaussian", "noise_multiplier": 9.0, "sample_rate": 0.1, "count": 1}}),
        (2, {"event": {"kind": "sampled_gaussian", "noise_multiplier": 2, "sample_rate": 0.1, "count": 1}}),
        (2, {"event": None}),
        (2, {"message_id": ["a", 0]}),
        (3, {"message_id": "a:000007"}),
        (4, {"previous": "0" * 64}),
        (4, {"kind": "recovered", "event": None, "torn_sha256": DIGEST, "message_id": ...}),
    ],
)
def test_a_line_with_a_right_checksum_must_still_obey_the_rules(number: int, changes: dict[str, Any]) -> None:
    with pytest.raises(LedgerError, match=f"line {number + 1} is damaged"):
        Ledger.parse(rewritten(full_ledger(), number, **changes))


def test_other_spellings_of_the_same_json_are_damage() -> None:
    *lines, last = full_ledger().splitlines()
    record = json.loads(last)
    spellings = [
        json.dumps(record, sort_keys=True),
        json.dumps(dict(reversed(record.items())), separators=(",", ":")),
        last.decode() + " ",
        last.decode() + "\r",
        last.decode().replace('"index":4', '"index":4,"index":4'),
        last.decode().replace("0.1", "0.10"),
        last.decode().replace("charge", "\\u0063harge"),
        "\ufeff" + last.decode(),
        "[" * 100_000,
        "NaN",
        "9" * 5000,
    ]
    for spelling in spellings:
        with pytest.raises(LedgerError, match="line 5 is damaged"):
            Ledger.parse(b"\n".join([*lines, spelling.encode()]) + b"\n")


def test_lines_removed_doubled_or_swapped_are_noticed() -> None:
    lines = full_ledger().splitlines(keepends=True)
    for number in range(len(lines) - 1):
        for changed in (
            lines[:number] + lines[number + 1 :],
            lines[: number + 1] + lines[number:],
            [*lines[:number], lines[number + 1], lines[number], *lines[number + 2 :]],
            [*lines[:number], b"\n", *lines[number:]],
        ):
            with pytest.raises(LedgerError, match="line "):
                Ledger.parse(b"".join(changed))


def test_whole_lines_cut_off_show_in_head_and_length_alone() -> None:
    data = full_ledger()
    history = Ledger.parse(data)
    lines = data.splitlines(keepends=True)
    for kept in range(1, len(lines)):
        cut = Ledger.parse(b"".join(lines[:kept]))
        assert len(cut) == kept < len(history)
        assert cut.head != history.head


def test_a_damaged_or_empty_file_is_not_opened_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    damaged = full_ledger().replace(b'"max_queries":5', b'"max_queries":9')
    for data in (damaged, damaged + b'{"torn', b"", b'{"budget"', b"\n", b"\0" * 100):
        path.write_bytes(data)
        with pytest.raises(LedgerError):
            Ledger(path)
        assert path.read_bytes() == data
