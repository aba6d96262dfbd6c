"""The ledger: its chain and rules, torn lines at every byte, budgets, one writer, failing disks, kill -9."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import random
import re
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from private_distdd.errors import BudgetExceededError, ConfigurationError, LedgerError, QueryRefusedError
from private_distdd.privacy import accountants
from private_distdd.privacy.events import Composition, Event, NotPrivate, SampledGaussian, merge
from private_distdd.privacy.ledger import Budget, Charge, Ledger, Open, Pin, Recovered, Sealed

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


@pytest.fixture
def additive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accountants one can do sums with: a release costs 1 / sigma, whatever delta."""

    def cost(events: Iterable[Event], delta: float) -> float:
        return sum(math.inf if isinstance(e, NotPrivate) else e.count / e.noise_multiplier for e in merge(events))

    def affords(self: accountants.RdpFilter, spent: Iterable[Event], event: Event) -> bool:
        return cost([*spent, event], self.delta) <= self.budget_epsilon

    monkeypatch.setattr(accountants, "best_epsilon", cost)
    monkeypatch.setattr(accountants.RdpFilter, "affords", affords)


# --- what is written ---


def test_every_line_is_canonical_and_chained() -> None:
    lines = full_ledger().splitlines()
    previous = "0" * 64
    for index, line in enumerate(lines):
        record = json.loads(line)
        assert json.dumps(record, sort_keys=True, separators=(",", ":")).encode() == line
        assert (record["version"], record["index"], record["previous"]) == (1, index, previous)
        previous = hashlib.sha256(line).hexdigest()
    assert [json.loads(line)["kind"] for line in lines] == ["open", "pin", "charge", "sealed", "charge"]
    assert Ledger.parse(full_ledger()).head == previous


def test_version_1_is_read_for_ever() -> None:
    """Golden bytes: this file was written by the first release."""
    ledger = Ledger(None, client_id="a")
    ledger.charge(SampledGaussian(1.5, 0.1), "r:000000")
    assert ledger.to_bytes() == GOLDEN.encode()
    assert Ledger.parse(GOLDEN.encode()).events == (SampledGaussian(1.5, 0.1),)


GOLDEN = """\
{"budget":null,"client_id":"a","crc":"5157f460","index":0,"kind":"open",\
"previous":"0000000000000000000000000000000000000000000000000000000000000000","version":1}
{"crc":"3a68857c","event":{"count":1,"kind":"sampled_gaussian","noise_multiplier":1.5,"sample_rate":0.1},"index":1,\
"kind":"charge","message_id":"r:000000",\
"previous":"a161548ee17799673dd3bb67a86652522b4be132966d4323d3c1a34f961f6e87","version":1}
"""


def test_entries_are_what_was_asked_for() -> None:
    ledger = Ledger(None, client_id="clinic")
    event = Composition((CHEAP, DEAR))
    ledger.pin("run", event, 2)
    sealed(ledger, event, "run:0")
    assert ledger.entries == (
        Open("clinic", None),
        Pin("run", event, 2),
        Charge(event, "run:0"),
        Sealed("run:0", DIGEST),
    )
    assert tuple(ledger) == Ledger.parse(ledger.to_bytes()).entries
    assert len(ledger) == 4
    assert ledger.events == (event,)
    assert (ledger.client_id, ledger.budget, ledger.path) == ("clinic", None, None)


def test_a_file_and_memory_hold_the_same_lines(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, client_id="a") as on_disk, Ledger(None, client_id="a") as in_memory:
        for ledger in (on_disk, in_memory):
            ledger.pin("r", CHEAP, 3)
            sealed(ledger, CHEAP, "r:0")
            assert path.read_bytes() == on_disk.to_bytes()
        assert on_disk.to_bytes() == in_memory.to_bytes()


def test_reopening_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path) as ledger:
        ledger.pin("r", CHEAP, 3)
        sealed(ledger, CHEAP, "r:0")
        ledger.charge(CHEAP, "r:1")
        head = ledger.head
    with Ledger(path) as ledger:
        assert (ledger.head, len(ledger), ledger.remaining("r")) == (head, 5, 1)
        assert [ledger.status(f"r:{n}") for n in range(3)] == ["sealed", "charged", "new"]
        assert [ledger.digest(f"r:{n}") for n in range(3)] == [DIGEST, None, None]
        ledger.seal("r:1", DIGEST)
    assert Ledger.parse(path.read_bytes()).count("r:") == 2


def test_the_first_line_holds_for_life(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    Ledger(path, Budget(3, 1e-5), client_id="a").close()
    for budget, client_id in ((None, None), (Budget(3, 1e-5), "a")):
        with Ledger(path, budget, client_id=client_id) as ledger:
            assert (ledger.budget, ledger.client_id) == (Budget(3.0, 1e-5), "a")
    with pytest.raises(LedgerError, match="budget"):
        Ledger(path, Budget(4, 1e-5))
    with pytest.raises(LedgerError, match="client_id"):
        Ledger(path, client_id="b")
    Ledger(path).close()  # and the refusals let go of the lock


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, True, "1", None])
def test_budgets_are_validated(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="epsilon"):
        Budget(value, 1e-5)
    with pytest.raises(ConfigurationError, match="delta"):
        Budget(1.0, value)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda ledger: ledger.charge(CHEAP, "no-round"),
        lambda ledger: ledger.charge(CHEAP, "r:0\n"),
        lambda ledger: ledger.charge(CHEAP, "r:-1"),
        lambda ledger: ledger.charge(CHEAP, "r" * 65 + ":1"),
        lambda ledger: ledger.charge(None, "r:1"),
        lambda ledger: ledger.pin("r:1", CHEAP, 1),
        lambda ledger: ledger.pin("r", "cheap", 1),
        lambda ledger: ledger.pin("r", CHEAP, 0),
        lambda ledger: ledger.pin("r", CHEAP, True),
        lambda ledger: ledger.pin("r", CHEAP, 1.0),
        lambda ledger: ledger.seal("r:1", DIGEST.upper()),
        lambda ledger: ledger.seal("r:1", DIGEST[:-1]),
        lambda ledger: Ledger(None, client_id="../a"),
        lambda ledger: Ledger(None, 3.0),
    ],
)
def test_malformed_arguments_write_nothing(wrong: Callable[[Ledger], object]) -> None:
    ledger = Ledger(None)
    with pytest.raises(ConfigurationError):
        wrong(ledger)
    assert len(ledger) == 1


# --- exactly once ---


def test_a_message_goes_from_new_to_charged_to_sealed_and_may_be_paid_again() -> None:
    ledger = Ledger(None)
    assert ledger.status("r:1") == "new"
    ledger.charge(CHEAP, "r:1")
    assert (ledger.status("r:1"), ledger.digest("r:1")) == ("charged", None)
    ledger.seal("r:1", DIGEST)
    assert (ledger.status("r:1"), ledger.digest("r:1")) == ("sealed", DIGEST)
    ledger.charge(CHEAP, "r:1")  # the sealed bytes were lost
    assert (ledger.status("r:1"), ledger.digest("r:1")) == ("charged", None)
    assert ledger.events == (CHEAP, CHEAP)
    assert (ledger.count("r:"), ledger.count("r"), ledger.count("other:")) == (2, 2, 0)


def test_one_charge_seals_one_message() -> None:
    ledger = Ledger(None)
    with pytest.raises(LedgerError, match="'new'"):
        ledger.seal("r:1", DIGEST)
    sealed(ledger, CHEAP, "r:1")
    lines = len(ledger)
    ledger.seal("r:1", DIGEST)
    assert len(ledger) == lines
    with pytest.raises(LedgerError, match="free release"):
        ledger.seal("r:1", hashlib.sha256(b"fresh noise").hexdigest())
    assert len(ledger) == lines


def test_a_pinned_run_costs_what_was_pinned_and_ends() -> None:
    ledger = Ledger(None)
    ledger.pin("r", CHEAP, 2)
    ledger.pin("r", CHEAP, 2)
    assert (len(ledger), ledger.remaining("r"), ledger.remaining("s")) == (2, 2, 0)
    for other in ((DEAR, 2), (CHEAP, 3)):
        with pytest.raises(LedgerError, match="pinned already"):
            ledger.pin("r", *other)
    with pytest.raises(QueryRefusedError, match="the pinned"):
        ledger.charge(DEAR, "r:0")
    ledger.charge(CHEAP, "r:0")
    ledger.charge(CHEAP, "r:0")  # paid twice counts twice
    with pytest.raises(QueryRefusedError, match="charge 3"):
        ledger.charge(CHEAP, "r:1")
    ledger.charge(CHEAP, "s:0")
    with pytest.raises(LedgerError, match="charged before"):
        ledger.pin("s", CHEAP, 2)
    assert ledger.events == (CHEAP,) * 3


# --- damage ---


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


# --- torn lines ---


def torn_at_every_byte(ledger: Ledger) -> list[bytes]:
    data = ledger.to_bytes()
    return [data[:end] for end in range(data.rindex(b"\n", 0, -1) + 2, len(data))]


def test_a_charge_torn_at_any_byte_is_charged_as_pinned(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(None)
    ledger.pin("r", CHEAP, 3)
    sealed(ledger, CHEAP, "r:0")
    intact = ledger.to_bytes()
    ledger.charge(CHEAP, "r:1")
    for torn in torn_at_every_byte(ledger):
        path.write_bytes(torn)
        with pytest.raises(LedgerError, match="line 5 is torn"):
            Ledger.parse(torn)
        with Ledger(path) as opened:
            assert opened.entries[-1] == Recovered(CHEAP, hashlib.sha256(torn[len(intact) :]).hexdigest())
            assert opened.events == (CHEAP, CHEAP)
            assert (opened.remaining("r"), opened.status("r:1"), opened.status("r:0")) == (1, "new", "sealed")
            opened.charge(CHEAP, "r:1")
            with pytest.raises(QueryRefusedError):
                opened.charge(CHEAP, "r:2")
        assert path.read_bytes().startswith(intact)
        assert Ledger.parse(path.read_bytes()).events == (CHEAP,) * 3


@pytest.mark.parametrize(
    ("prepare", "last", "expected"),
    [
        (lambda x: None, lambda x: x.pin("r", CHEAP, 1), None),
        (lambda x: None, lambda x: x.charge(CHEAP, "x:0"), None),
        (lambda x: x.charge(DEAR, "x:0"), lambda x: x.seal("x:0", DIGEST), DEAR),
        (lambda x: (x.charge(DEAR, "x:0"), x.pin("r", CHEAP, 2)), lambda x: x.charge(CHEAP, "r:0"), CHEAP),
        (lambda x: (x.pin("r", CHEAP, 1), x.charge(CHEAP, "r:0")), lambda x: x.seal("r:0", DIGEST), None),
        (lambda x: (x.pin("r", CHEAP, 2), x.charge(CHEAP, "r:0")), lambda x: x.seal("r:0", DIGEST), CHEAP),
        (
            lambda x: (x.pin("a", DEAR, 2), x.pin("b", CHEAP, 2), x.charge(CHEAP, "b:0")),
            lambda x: x.charge(DEAR, "a:0"),
            Composition((DEAR, CHEAP)),
        ),
        (
            lambda x: (x.pin("a", DEAR, 2), x.pin("b", CHEAP, 1), x.charge(CHEAP, "b:0")),
            lambda x: x.charge(DEAR, "a:0"),
            DEAR,
        ),
    ],
)
def test_the_recovery_covers_whatever_run_the_torn_line_was_of(
    tmp_path: Path, prepare: Any, last: Any, expected: Event | None
) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(None)
    prepare(ledger)
    before = ledger.events
    left = {run: ledger.remaining(run) for run in "abr"}
    last(ledger)
    path.write_bytes(ledger.to_bytes()[:-1])
    with Ledger(path) as opened:
        assert opened.events == (before if expected is None else (*before, expected))
        assert {run: opened.remaining(run) for run in "abr"} == {run: max(n - 1, 0) for run, n in left.items()}
    assert Ledger.parse(path.read_bytes()).entries[-1].kind == "recovered"


def test_a_recovery_of_a_recovery(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path) as ledger:
        ledger.pin("r", CHEAP, 500)
    for n in range(1, 4):
        path.write_bytes(path.read_bytes() + b'{"crc":"0')
        with Ledger(path) as ledger:
            assert ledger.events == (CHEAP,) * n
        with open(path, "rb+") as file:
            file.truncate(path.stat().st_size - 3)  # the recovery itself, torn by a file system that lied
        with Ledger(path) as ledger:
            assert ledger.events == (CHEAP,) * n


@pytest.mark.parametrize("step", ["open", "write", "fsync", "replace", "folder"])
def test_a_crash_inside_recovery_leaves_the_same_recovery_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(None)
    ledger.pin("r", CHEAP, 3)
    ledger.charge(CHEAP, "r:0")
    torn = ledger.to_bytes()[:-30]
    path.write_bytes(torn)

    class PowerCutError(BaseException):
        pass

    calls = {"fsync": 0}
    write, fsync = os.write, os.fsync

    def cut(*_: object) -> None:
        raise PowerCutError

    def cut_write(file: int, data: bytes) -> int:
        write(file, data[:50])
        raise PowerCutError

    def second_fsync(file: int) -> None:
        calls["fsync"] += 1
        cut() if calls["fsync"] == 2 else fsync(file)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # nothing is tidied up after a power cut
        match step:
            case "open":
                patch.setattr("private_distdd.files.write_durably", cut)
            case "write":
                patch.setattr(os, "write", cut_write)
            case "fsync" | "replace":
                patch.setattr(os, step, cut)
            case "folder":
                patch.setattr(os, "fsync", second_fsync)
        with pytest.raises(PowerCutError):
            Ledger(path)
    partial = path.with_name(path.name + ".partial")
    if step != "folder":
        assert path.read_bytes() == torn
        assert partial.exists()
        partial.chmod(0o644)  # as one that an earlier version left
    with Ledger(path) as opened:
        assert not partial.exists()
        assert path.stat().st_mode & 0o777 == 0o600
        assert opened.events == (CHEAP,)
        assert [entry.kind for entry in opened] == ["open", "pin", "recovered"]


# --- budgets ---


@pytest.mark.usefixtures("additive")
def test_a_schedule_is_reserved_once_and_then_runs_free(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, Budget(10, 1e-5)) as ledger:  # CHEAP costs .5, DEAR 2
        ledger.pin("a", CHEAP, 12)
        assert ledger.affords([DEAR, DEAR])
        assert not ledger.affords([DEAR, DEAR, CHEAP])
        before = path.read_bytes()
        with pytest.raises(BudgetExceededError, match="by PRV"):
            ledger.pin("b", CHEAP, 9)
        with pytest.raises(BudgetExceededError, match="by PRV"):
            ledger.pin("b", DEAR, 3)
        with pytest.raises(BudgetExceededError):
            ledger.charge(SampledGaussian(0.2, 0.1), "c:0")
        with pytest.raises(BudgetExceededError):
            ledger.check([SampledGaussian(0.2, 0.1)])
        assert path.read_bytes() == before
        ledger.charge(DEAR, "c:0")
        ledger.pin("b", Composition((CHEAP, CHEAP)), 2)
    with Ledger(path) as ledger:
        assert not ledger.affords([CHEAP])
        for n in range(12):
            ledger.charge(CHEAP, f"a:{n}")
            assert not ledger.affords([CHEAP])
        with pytest.raises(QueryRefusedError, match="charge 13"):
            ledger.charge(CHEAP, "a:12")
        with pytest.raises(BudgetExceededError):
            ledger.charge(CHEAP, "c:1")
        ledger.charge(Composition((CHEAP, CHEAP)), "b:0")


@pytest.mark.usefixtures("additive")
def test_torn_lines_stay_within_the_reserved_budget(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    Ledger(path, Budget(10, 1e-5)).close()
    with Ledger(path) as ledger:
        ledger.pin("a", CHEAP, 12)
        ledger.pin("b", DEAR, 2)
    for n in range(30):
        path.write_bytes(path.read_bytes() + b"{")
        with Ledger(path) as ledger:
            spent = sum(e.count / e.noise_multiplier for e in merge([*ledger.events, *ledger.reserved()]))
            assert spent == 10
            assert ledger.remaining("a") == max(11 - n, 0)


@pytest.mark.parametrize("event", [NotPrivate(), Composition((CHEAP, NotPrivate(3)))])
def test_nothing_without_privacy_under_a_budget(event: Event) -> None:
    ledger = Ledger(None, Budget(1e9, 0.5))
    before = ledger.to_bytes()
    for refused in (lambda: ledger.charge(event, "r:0"), lambda: ledger.pin("r", event, 1)):
        with pytest.raises(BudgetExceededError, match="without privacy"):
            refused()
    assert not ledger.affords([event])
    assert ledger.to_bytes() == before


def test_without_a_budget_everything_is_affordable_and_the_bill_says_so() -> None:
    ledger = Ledger(None)
    assert ledger.affords([NotPrivate()])
    ledger.charge(NotPrivate(), "r:0")
    assert ledger.epsilon(1e-5) == math.inf


def test_a_budget_by_the_real_accountants() -> None:
    ledger = Ledger(None, Budget(8, 1e-5))
    event = SampledGaussian(1.0, 0.1)  # 100 of them: 7.0466 by dp_accounting's PLD
    with pytest.raises(BudgetExceededError):
        ledger.pin("r", event, 200)
    ledger.pin("r", event, 100)
    assert not ledger.affords([SampledGaussian(1.0, 0.1, 100)])
    tiny = SampledGaussian(1000.0, 1e-3)
    assert ledger.affords([tiny])  # still a part of a plan made before any message
    for n in range(100):
        ledger.charge(event, f"r:{n}")
    assert 7.0465 < ledger.epsilon(1e-5) < 7.16
    assert ledger.epsilon(1e-5) < ledger.epsilon(1e-5, "rdp")


def test_what_is_chosen_after_a_release_must_pass_the_filter() -> None:
    event, tiny = SampledGaussian(1.0, 0.1), SampledGaussian(1000.0, 1e-3)
    tight, roomy = Ledger(None, Budget(7.2, 1e-5)), Ledger(None, Budget(12, 1e-5))
    for ledger in (tight, roomy):
        ledger.pin("r", event, 100)
        assert ledger.affords([tiny])
        ledger.charge(event, "r:0")
    with pytest.raises(BudgetExceededError, match="by the RDP filter"):
        tight.pin("s", tiny, 1)
    roomy.pin("s", tiny, 1)
    charges = 0
    while roomy.affords([event]):
        roomy.charge(event, f"adaptive:{charges}")
        charges += 1
    with pytest.raises(BudgetExceededError, match="by the RDP filter"):
        roomy.charge(event, f"adaptive:{charges}")
    assert 0 < charges < 200
    everything = [*roomy.events, *roomy.reserved()]
    assert accountants.epsilon(everything, 1e-5, "rdp") <= 12
    assert accountants.RdpFilter(12, 1e-5).affords(everything[1:], everything[0])
    for n in range(1, 100):
        roomy.charge(event, f"r:{n}")  # what was reserved is still there


def test_epsilon_of_an_empty_ledger_is_zero() -> None:
    assert Ledger(None).epsilon(1e-5) == 0


# --- one writer ---

OPEN = "import sys; from private_distdd.privacy.ledger import Ledger; Ledger(sys.argv[1]); print('open')"


def test_a_second_process_is_told_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path):
        second = subprocess.run([sys.executable, "-c", OPEN, str(path)], capture_output=True, text=True)
        assert second.returncode == 1
        assert "LedgerError" in second.stderr
        assert "in use by another process" in second.stderr
    again = subprocess.run([sys.executable, "-c", OPEN, str(path)], capture_output=True, text=True, check=True)
    assert again.stdout == "open\n"


def test_a_second_object_and_an_alias_meet_the_same_lock(tmp_path: Path) -> None:
    path, alias = tmp_path / "ledger.jsonl", tmp_path / "alias"
    alias.symlink_to(path)
    with Ledger(path) as ledger:
        for name in (path, alias, os.path.relpath(path)):
            with pytest.raises(LedgerError, match="in use"):
                Ledger(name)
        ledger.charge(CHEAP, "r:0")
    path.write_bytes(path.read_bytes() + b"{")
    with Ledger(alias) as ledger:
        assert len(ledger.events) == 2
    assert alias.is_symlink()


def test_threads_append_one_after_the_other(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        ledger.pin("r", CHEAP, 40)
        errors: list[Exception] = []

        def work(first: int) -> None:
            for n in range(first, first + 15):
                try:
                    ledger.charge(CHEAP, f"r:{n}")
                except QueryRefusedError as error:
                    errors.append(error)

        threads = [threading.Thread(target=work, args=(100 * n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(errors) == 20
    assert len(Ledger.parse((tmp_path / "ledger.jsonl").read_bytes()).events) == 40


FORKING = """
import os, sys
from private_distdd.errors import LedgerError
from private_distdd.privacy.events import SampledGaussian
from private_distdd.privacy.ledger import Ledger
path = sys.argv[1] or None
ledger = Ledger(path)
def attempt(name, change):
    try:
        change()
        print(name, "succeeded", flush=True)
    except LedgerError as error:
        print(name, error.given, flush=True)
child = os.fork()
if child == 0:
    attempt("child", lambda: ledger.charge(SampledGaussian(2.0, 0.1), "r:1"))
    ledger.close()
    os._exit(0)
os.waitpid(child, 0)
if path:
    attempt("second", lambda: Ledger(path))
attempt("charge", lambda: ledger.charge(SampledGaussian(2.0, 0.1), "r:0"))
"""


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_forked_child_may_neither_write_nor_free_the_file(tmp_path: Path, in_memory: bool) -> None:
    path = "" if in_memory else str(tmp_path / "ledger.jsonl")
    # In a process of its own: this one has threads, and forking it is not safe.
    done = subprocess.run([sys.executable, "-c", FORKING, path], capture_output=True, text=True, check=True)
    assert "child this ledger was opened by another process\n" in done.stdout
    assert "charge succeeded\n" in done.stdout
    if not in_memory:
        assert "is in use by another process" in done.stdout
        assert len(Ledger.parse(Path(path).read_bytes()).events) == 1


def test_a_closed_ledger_is_read_only(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.charge(CHEAP, "r:0")
    ledger.close()
    ledger.close()
    assert ledger.events == (CHEAP,)
    with pytest.raises(LedgerError, match="is closed"):
        ledger.charge(CHEAP, "r:1")


# --- disks that fail ---


def test_an_error_while_writing_ends_this_object_and_the_next_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.jsonl"
    write = os.write
    room = 20

    def full_disk(file: int, data: bytes) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(file, data[:room])
        room -= written
        return written

    with Ledger(path) as ledger:
        ledger.pin("r", CHEAP, 3)
        whole = path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full_disk)
            with pytest.raises(LedgerError, match="No space left"):
                ledger.charge(CHEAP, "r:0")
        assert len(path.read_bytes()) == len(whole) + 20
        with pytest.raises(LedgerError, match="failed while it was writing"):
            ledger.charge(CHEAP, "r:0")
        assert ledger.status("r:0") == "new"
    with Ledger(path) as ledger:
        assert (ledger.events, ledger.remaining("r")) == ((CHEAP,), 2)
        ledger.charge(CHEAP, "r:0")


def test_a_failed_fsync_is_never_taken_for_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.jsonl"

    def failing(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with Ledger(path) as ledger:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing)
            with pytest.raises(LedgerError, match="Input/output error"):
                ledger.charge(CHEAP, "r:0")
        with pytest.raises(LedgerError, match="Open it anew"):
            ledger.seal("r:0", DIGEST)
    with Ledger(path) as ledger:
        assert ledger.events == (CHEAP,)  # its bytes had arrived: charged, though nothing left
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(LedgerError):
            Ledger(tmp_path / "new.jsonl")
    assert not (tmp_path / "new.jsonl").exists()


def test_the_line_and_the_folder_are_flushed_before_anything_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.jsonl"
    flushed: list[tuple[str, bytes]] = []
    fsync = os.fsync

    def watch(file: int) -> None:
        name = os.readlink(f"/proc/self/fd/{file}") if sys.platform == "linux" else "?"
        flushed.append((os.path.basename(name), path.read_bytes() if path.exists() else b""))
        fsync(file)

    monkeypatch.setattr(os, "fsync", watch)
    with Ledger(path) as ledger:
        assert len(flushed) == 2
        assert flushed[-1][1] == ledger.to_bytes()  # the folder, after the rename
        for n, change in enumerate([lambda: ledger.charge(CHEAP, "r:0"), lambda: ledger.seal("r:0", DIGEST)]):
            change()
            assert len(flushed) == 3 + n
            assert flushed[-1][1] == ledger.to_bytes()
    if sys.platform == "linux":
        assert re.fullmatch(r"ledger\.jsonl\.[0-9a-f]{32}\.partial", flushed[0][0])
        assert [name for name, _ in flushed[1:]] == [tmp_path.name, path.name, path.name]


def test_a_file_that_others_changed_or_removed_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path) as ledger:
        path.write_bytes(path.read_bytes() + b"{}\n")
        with pytest.raises(LedgerError, match="length changed"):
            ledger.charge(CHEAP, "r:0")
    with Ledger(tmp_path / "other.jsonl") as ledger:
        (tmp_path / "other.jsonl").unlink()
        with pytest.raises(LedgerError, match="No such file"):
            ledger.charge(CHEAP, "r:0")
        assert not (tmp_path / "other.jsonl").exists()


@pytest.mark.parametrize("by", ["another file", "another last line"])
def test_a_file_of_equal_length_in_its_place_is_not_written(tmp_path: Path, by: str) -> None:
    path, other = tmp_path / "ledger.jsonl", tmp_path / "other.jsonl"
    with Ledger(path) as ledger, Ledger(other) as twin:
        ledger.charge(CHEAP, "r:0")
        twin.charge(CHEAP, "s:0")
        data = twin.to_bytes()
        assert len(data) == path.stat().st_size
        if by == "another file":
            os.replace(other, path)
        else:
            path.write_bytes(data)
        with pytest.raises(LedgerError, match="not the file" if by == "another file" else "last line"):
            ledger.charge(CHEAP, "r:1")
        assert path.read_bytes() == data


@pytest.mark.parametrize("trace", [".lock", ".outbox"])
def test_a_deleted_ledger_does_not_start_anew(tmp_path: Path, trace: str) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, Budget(1.0, 1e-5)) as ledger:
        ledger.charge(CHEAP, "r:0")
        copy = path.read_bytes()
    path.with_name(path.name + ".outbox").write_bytes(b"a message")
    for name in {".lock", ".outbox"} - {trace}:
        path.with_name(path.name + name).unlink()
    path.unlink()
    for _ in range(2):
        with pytest.raises(LedgerError, match="is gone"):
            Ledger(path)
        assert not path.exists()
    path.write_bytes(copy)
    with Ledger(path) as ledger:
        assert ledger.budget == Budget(1.0, 1e-5)
        ledger.charge(CHEAP, "r:1")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_a_ledger_is_for_its_owner_s_eyes(tmp_path: Path) -> None:
    path, before = tmp_path / "ledger.jsonl", os.umask(0)
    try:
        with Ledger(path) as ledger:
            ledger.charge(CHEAP, "r:0")
        assert path.stat().st_mode & 0o777 == 0o600
        path.write_bytes(path.read_bytes()[:-5])  # torn: recovered by writing it whole
        with Ledger(path):
            assert path.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_a_torn_sealed_line_on_the_last_query_lets_no_other_message_out(tmp_path: Path) -> None:
    """The torn line may commit to a message that never left: nothing else may leave under its charge, ever."""
    path = tmp_path / "ledger.jsonl"
    with Ledger(path) as ledger:
        ledger.pin("r", CHEAP, 1)
        ledger.charge(CHEAP, "r:0")
        ledger.seal("r:0", DIGEST)
    data = path.read_bytes()
    for cut in range(1, 40):
        path.write_bytes(data[:-cut])
        with Ledger(path) as ledger:
            assert isinstance(ledger.entries[-1], Recovered)
            assert ledger.status("r:0") == "charged"
            assert len(ledger.events) == 1
            with pytest.raises(QueryRefusedError, match="charge 2"):  # a computation needs a charge of its own
                ledger.charge(CHEAP, "r:0")


def test_a_ledger_of_many_pins_is_read_in_one_pass() -> None:
    """Every recovery once walked over all pins, also those long spent: a day for a file of the largest size."""
    ledger = Ledger(None)
    for number in range(300):
        ledger.pin(f"r{number}", CHEAP, 1)
        ledger.charge(CHEAP, f"r{number}:0")
    assert ledger.reserved() == ()
    assert ledger._left == {}
    ledger.pin("last", CHEAP, 2)
    ledger.charge(CHEAP, "last:0")
    assert list(ledger._left) == ["last"]
    assert ledger.torn_event() == CHEAP
    again = Ledger.parse(ledger.to_bytes())
    assert (again._left, again.reserved()) == (ledger._left, ledger.reserved())


def test_places_that_cannot_hold_a_ledger(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="folder does not exist"):
        Ledger(tmp_path / "mistyped" / "ledger.jsonl")
    assert not (tmp_path / "mistyped").exists()
    with pytest.raises(LedgerError, match="directory"):
        Ledger(tmp_path)
    if os.getuid():
        (tmp_path / "sealed").mkdir(mode=0o500)
        with pytest.raises(LedgerError):
            Ledger(tmp_path / "sealed" / "ledger.jsonl")


# --- kill -9 ---

CHARGING = """
import os, sys, time
write = os.write
os.write = lambda file, data: time.sleep(0.0005) or write(file, data[:40])  # in slow pieces, so that kills tear lines
from private_distdd.privacy.events import SampledGaussian
from private_distdd.privacy.ledger import Ledger
ledger = Ledger(sys.argv[1])
event = SampledGaussian(2.0, 0.1)
ledger.pin("run", event, 10**8)
n = ledger.count("run:")
while True:
    ledger.charge(event, f"run:{n}")
    ledger.seal(f"run:{n}", "0" * 64)
    write(1, b"%d\\n" % n)  # the message leaves
    n += 1
"""


def kill_again_and_again(path: Path, kills: int) -> int:
    """Kill a charging process at random moments; every message it let out is in the ledger.  Returns recoveries."""
    out: set[int] = set()
    for _ in range(kills):
        with subprocess.Popen([sys.executable, "-c", CHARGING, str(path)], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            first = child.stdout.readline()
            time.sleep(random.uniform(0, 0.05))
            child.kill()
            printed = [
                int(line) for line in (first + child.stdout.read()).splitlines(keepends=True) if line[-1:] == b"\n"
            ]
        assert printed, "the child failed: it let out no message"
        assert not out & set(printed)
        out.update(printed)
        with Ledger(path) as ledger:
            assert all(ledger.status(f"run:{n}") == "sealed" for n in out)
            assert len(ledger.events) >= len(out)
    history = Ledger.parse(path.read_bytes())
    assert history.count("run:") >= len(out)
    return sum(isinstance(entry, Recovered) for entry in history)


def test_no_released_message_is_missing_after_20_kills(tmp_path: Path) -> None:
    assert kill_again_and_again(tmp_path / "ledger.jsonl", 20) > 0  # and some kills did tear a line


@pytest.mark.slow
def test_no_released_message_is_missing_after_many_kills(tmp_path: Path) -> None:
    """PRIVATE_DISTDD_KILLS sets how many; 20 to a ledger, lest loading its lines takes all the time."""
    kills = int(os.environ.get("PRIVATE_DISTDD_KILLS", "500"))
    assert sum(kill_again_and_again(tmp_path / f"{n}.jsonl", 20) for n in range(-(-kills // 20))) > 0
