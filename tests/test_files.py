"""Files: whole or absent, durable before they have their name, and never read beyond what they may be."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from private_distdd.files import read_file, write_file


def test_write_file_replaces_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    write_file(path, b"one")
    write_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["x.bin"]


@pytest.mark.parametrize("broken", ["write", "fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, error: BaseException
) -> None:
    path = tmp_path / "x.bin"
    write_file(path, b"old")

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    def half(file: int, data: bytes) -> int:
        written = write(file, data[:1])
        if written < len(data):  # the disk takes one byte, and then no more
            monkeypatch.setattr(os, "write", fail)
        return written

    write = os.write
    monkeypatch.setattr(os, broken, half if broken == "write" else fail)
    with pytest.raises(type(error)):
        write_file(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.bin"]


def test_a_disk_that_takes_a_few_bytes_at_a_time_gets_them_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:3]))
    write_file(tmp_path / "x", bytes(range(100)))
    assert (tmp_path / "x").read_bytes() == bytes(range(100))


def test_what_a_crash_left_lends_no_permissions(tmp_path: Path) -> None:
    (tmp_path / "x.partial").write_bytes(b"left")
    (tmp_path / "x.partial").chmod(0o666)
    write_file(tmp_path / "x", b"data", mode=0o600)
    assert (tmp_path / "x").read_bytes() == b"data"
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["x"]


def test_no_more_is_read_than_may_be(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    assert read_file(tmp_path / "x", 5) == b"12345"
    with pytest.raises(OSError, match="x is longer than 4 bytes"):
        read_file(tmp_path / "x", 4)


def test_files_need_no_torch() -> None:
    code = "import sys, private_distdd.files; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_a_missing_folder_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        write_file(tmp_path / "none" / "x", b"")


def test_durable_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("replace"), replace(a, b))[1])
    write_file(tmp_path / "x", b"data")
    assert order == ["fsync", "replace", "fsync"]  # the file, its name, the folder
