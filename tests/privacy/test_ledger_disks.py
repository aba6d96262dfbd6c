"""Disks that fail, files that others change, and what a ledger's file is like."""

from __future__ import annotations

import errno
import os
import re
import sys
from pathlib import Path

import pytest
from ledgers import CHEAP, DIGEST

from private_distdd.errors import LedgerError, QueryRefusedError
from private_distdd.privacy.ledger import Budget, Ledger, Recovered


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
