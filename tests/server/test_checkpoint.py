"""The checkpoint's folder: whole files, known identities, rounds written once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from private_distdd.errors import CheckpointError
from private_distdd.server import checkpoint as checkpoint_module
from private_distdd.server.checkpoint import STATE, CheckpointFolder
from private_distdd.server.state import Checkpoint
from private_distdd.storage import unpack
from private_distdd.wire.run import Run

pytestmark = pytest.mark.filterwarnings("ignore::private_distdd.errors.NotPrivateWarning")


def at_round(run: Run, t: int) -> Checkpoint:
    memory = {i: {"target": torch.full((2, 3), float(i))} for i in range(max(0, t - 2), t)}
    state = {"images": torch.full((4,), float(t)), "step": torch.tensor(float(t))}
    return Checkpoint(run, {"rounds": t}, state, memory)


def assert_at(found: Checkpoint, run: Run, t: int) -> None:
    expected = at_round(run, t)
    assert found.run == run
    assert found.progress == expected.progress
    assert found.memory.keys() == expected.memory.keys()
    for ours, theirs in ((found.state, expected.state), *((found.memory[i], expected.memory[i]) for i in found.memory)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_is_written_is_read_and_rounds_are_written_once(run: Run, tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "new" / "ck", {"method": "m"})
    folder.start(Checkpoint(run))
    (tmp_path / "new" / "ck" / "notes.txt").write_text("mine")
    assert folder.read().progress == {}
    kept: dict[str, int] = {}
    for t in range(5):
        folder.write(at_round(run, t))
        if t == 3:
            folder = CheckpointFolder(tmp_path / "new" / "ck", {"method": "m"})
        assert_at(folder.read(), run, t)
        files = {path.name: path.stat().st_ino for path in (tmp_path / "new" / "ck").glob("memory-*")}
        assert len(files) == min(t, 2)
        assert all(files[name] == kept[name] for name in files.keys() & kept.keys())
        kept = files
    assert {path.name for path in (tmp_path / "new" / "ck").iterdir()} == {STATE, "notes.txt", *kept}
    unpack((tmp_path / "new" / "ck" / STATE).read_bytes())  # safetensors and JSON, nothing else


def test_any_changed_byte_is_noticed(run: Run, tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, {"method": "m"})
    folder.start(at_round(run, 2))
    for path in sorted(tmp_path.iterdir()):
        data = path.read_bytes()
        for place in range(len(data)):
            path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            with pytest.raises(CheckpointError):
                folder.read()
        for part in (b"", data[:7], data[: len(data) // 2], data + b"\0"):
            path.write_bytes(part)
            with pytest.raises(CheckpointError, match="damaged"):
                folder.read()
        path.write_bytes(data)
    (tmp_path / "memory-000001.safetensors").unlink()
    with pytest.raises(CheckpointError, match="missing"):
        folder.read()


@pytest.mark.parametrize("name", ["replace", "fsync"])
def test_a_failed_write_leaves_the_one_before(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    real = getattr(os, name)
    calls = 0
    for fatal in range(1, 4):
        folder = CheckpointFolder(tmp_path / str(fatal), {})
        folder.start(at_round(run, 1))
        calls = 0

        def failing(*arguments: Any, fatal: int = fatal) -> Any:
            nonlocal calls
            calls += 1
            if calls == fatal:
                raise OSError(28, "No space left on device")
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(os, name, failing)
            try:
                folder.write(at_round(run, 3))
            except CheckpointError as error:
                assert "No space left" in str(error)  # noqa: PT017 - the last write may not be reached
        found = CheckpointFolder(tmp_path / str(fatal), {}).read()
        assert_at(found, run, 1 if found.progress["rounds"] == 1 else 3)
    assert calls


def test_other_identities_are_refused_and_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CheckpointFolder(tmp_path, {"rounds": 3, "rate": 0.1}).start(Checkpoint(run))
    with pytest.raises(CheckpointError, match=r"rounds: 3 there, 4 here\)"):
        CheckpointFolder(tmp_path, {"rounds": 4, "rate": 0.1}).read()
    with pytest.raises(CheckpointError, match=r"rate: 0\.1 there, None here"):
        CheckpointFolder(tmp_path, {"rounds": 3}).read()
    monkeypatch.setattr(checkpoint_module, "version", lambda name: "0.0")
    with pytest.raises(CheckpointError, match=r"version of torch: .* there, '0\.0' here"):
        CheckpointFolder(tmp_path, {"rounds": 3, "rate": 0.1}).read()


def test_a_folder_with_a_run_and_one_without(run: Run, tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, {})
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        folder.read()
    folder.start(Checkpoint(run))
    before = (tmp_path / STATE).read_bytes()
    with pytest.raises(CheckpointError, match="nothing is overwritten"):
        CheckpointFolder(tmp_path, {}).start(Checkpoint(run))
    assert (tmp_path / STATE).read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        CheckpointFolder(tmp_path / "file", {}).start(Checkpoint(run))
    with pytest.raises(CheckpointError, match="cannot be read"):
        CheckpointFolder(tmp_path / "file", {}).read()
