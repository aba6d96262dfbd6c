"""Cells in processes: as in one, apart from the noise; and none outlives a sweep that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from private_distdd import NotPrivateWarning, sweep

Config = dict[str, Any]


def test_what_is_seeded_is_as_in_one_process_and_noise_is_fresh_in_each(small: Config, tmp_path: Path) -> None:
    small["privacy"] = [{"noise_multiplier": 2.0}, {}]
    small["evaluation"]["epochs"] = [1, 2]  # two cells that distil alike
    with pytest.warns(NotPrivateWarning):
        apart = sweep(small, tmp_path / "apart", processes=2)
    with pytest.warns(NotPrivateWarning):
        alone = sweep(small, tmp_path / "alone")
    assert [record["status"] for record in apart] == ["done"] * 4
    bare = [record for record in (*apart, *alone) if record["epsilon"] == "infinity"]
    assert len({record["synthetic"] for record in bare}) == 1
    assert [r["accuracies"] for r in apart if r in bare] == [r["accuracies"] for r in alone if r in bare]
    noisy = [record["synthetic"] for record in (*apart, *alone) if record["epsilon"] != "infinity"]
    assert len(set(noisy)) == len(noisy) == 4


def long(small: Config) -> Config:
    """A short cell, and two that would take an hour."""
    small["method"] |= {"rounds": 1, "matching_steps": [1, 10_000_000, 10_000_001]}
    return small


SCRIPT = """
import json, sys
from private_distdd import sweep
if __name__ == "__main__":
    sweep(json.load(open("config.json")), "s", processes=2)
"""


def processes() -> dict[int, int]:
    """The parent of every process that is not dead, by its id."""
    found = subprocess.run(["ps", "-eo", "pid=,ppid=,stat="], capture_output=True, text=True, check=True).stdout
    return {int(pid): int(parent) for pid, parent, state in map(str.split, found.splitlines()) if "Z" not in state}


def right_below(parent: int) -> set[int]:
    return {pid for pid, other in processes().items() if other == parent}


def children(parent: int) -> set[int]:
    """Processes below this one, on every level."""
    parents, below, wanted = processes(), set[int](), {parent}
    while wanted:
        wanted = {pid for pid, other in parents.items() if other in wanted}
        below |= wanted
    return below


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_a_sweep_and_finished_cells_do(end: signal.Signals, small: Config, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(long(small)))
    (tmp_path / "run.py").write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, "run.py"],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with process:
        deadline = time.monotonic() + 300
        while not list(tmp_path.glob("s/cells/*.json")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        below = children(process.pid)
        os.kill(process.pid, end)
        process.wait(timeout=120)
    assert len(below) >= 3  # the one that copies are made of, and two cells
    while below & set(processes()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not below & set(processes())
    (kept,) = tmp_path.glob("s/cells/*.json")
    before = kept.read_bytes()
    small["method"]["matching_steps"] = [1, 2]
    records = sweep(small, tmp_path / "s")
    assert [record["status"] for record in records] == ["done", "done"]
    assert kept.read_bytes() == before


def test_a_process_that_is_killed_is_one_failed_cell(small: Config, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(long(small)))
    (tmp_path / "run.py").write_text(SCRIPT)
    with subprocess.Popen([sys.executable, "run.py"], cwd=tmp_path) as process:
        killed = set[int]()
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
            if list(tmp_path.glob("s/cells/*.json")):  # of those that are left, whichever they are, none ends by itself
                cells = children(process.pid) - right_below(process.pid) - killed
                killed |= cells
                for pid in cells:
                    os.kill(pid, signal.SIGKILL)
        assert process.wait(timeout=1) == 0
    records = json.loads((tmp_path / "s" / "results.json").read_text())["records"]
    assert [record["status"] for record in records] == ["done", "failed", "failed"]
    assert all("its process ended with exit code" in record["error"] for record in records[1:])
