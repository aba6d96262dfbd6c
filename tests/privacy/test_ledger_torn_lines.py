"""Lines that a crash tore, at every byte: charged for, once."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from ledgers import CHEAP, DEAR, DIGEST, sealed

from private_distdd.errors import LedgerError, QueryRefusedError
from private_distdd.privacy.events import Composition, Event
from private_distdd.privacy.ledger import Ledger, Recovered


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
