"""Every byte: whatever is changed, cut, added or put in a file's place is noticed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from releases import files_of, seal

from private_distdd.errors import ReleaseError
from private_distdd.release.release import Release, verify_folder


def test_every_flipped_byte_is_noticed(folder: Path) -> None:
    for name, data in files_of(folder).items():
        small = len(data) <= 1500
        rng = np.random.default_rng(len(data))
        places = range(len(data)) if small else sorted({0, len(data) - 1, *rng.integers(len(data), size=60).tolist()})
        for place in places:
            flip = 1 << int(rng.integers(8))
            (folder / name).write_bytes(data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :])
            failures = verify_folder(folder)
            assert failures, f"{name} byte {place}"
            assert name == "manifest.json" or f"{name} was changed" in failures
        (folder / name).write_bytes(data)
    assert verify_folder(folder) == []


def test_every_flipped_byte_of_a_ledger_is_noticed_by_its_chain(private: Release) -> None:
    data = private.ledgers["ann"]
    for place in range(0, len(data), 7):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        release = Release(private.dataset, private.card, {**private.ledgers, "ann": changed})
        assert any(line.startswith("ledger ann") for line in release.failures()), place


def test_truncated_missing_and_added_files_are_noticed(folder: Path) -> None:
    for name, data in files_of(folder).items():
        for length in (0, len(data) // 2, len(data) - 1):
            (folder / name).write_bytes(data[:length])
            assert verify_folder(folder), (name, length)
        (folder / name).unlink()
        assert any(name in line for line in verify_folder(folder)), name
        (folder / name).write_bytes(data)
    for name in ("more.txt", "ledgers/eve.jsonl", ".hidden"):
        (folder / name).write_text("x")
        assert verify_folder(folder) == [f"{name} was added"]
        (folder / name).unlink()
    assert verify_folder(folder) == []


def test_files_with_other_names_are_no_part_of_a_release(folder: Path) -> None:
    (folder / "ledgers" / "no ledger.exe").write_text("x")
    seal(folder)
    assert verify_folder(folder) == ["ledgers/no ledger.exe is no part of a release"]


def test_odd_places(saved: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    file = tmp_path / "file"
    file.write_text("x")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for place in (empty, file, loop, tmp_path / "absent", Path("nul\0"), Path("x" * 5000)):
        failures = verify_folder(place)
        assert len(failures) == 1, place
        assert failures[0].isprintable()
        with pytest.raises(ReleaseError):
            Release.load(place)


@pytest.mark.parametrize("name", ["card.json", "manifest.json", "synthetic.safetensors", "preview.png", "ledgers"])
@pytest.mark.parametrize("kind", ["directory", "link", "fifo", "link to itself"])
def test_odd_things_under_the_names_of_a_release(saved: Path, folder: Path, name: str, kind: str) -> None:
    place = folder / name
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    match kind:
        case "directory":
            place.mkdir()
        case "link":
            place.symlink_to(saved / name)
        case "fifo":
            os.mkfifo(place)
        case _:
            place.symlink_to(place)
    failures = verify_folder(folder)
    assert failures
    assert all(line.isprintable() for line in failures)
