"""SIGKILL, for real: no message leaves unpaid, no computation is free to repeat, and the run still ends."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from private_distdd import Release
from private_distdd.privacy.ledger import Charge, Recovered, Sealed, parse
from private_distdd.server.checkpoint import STATE

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "crash_kills.py"


def crash(*arguments: str) -> str:
    """What the script printed; it asserts all that must hold after each kill."""
    done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_ten_kills_at_random_moments() -> None:
    assert "10 kills" in crash("--kills", "10")


@pytest.mark.parametrize("torn", [[], ["--torn"]], ids=["before a write", "in its middle"])
def test_killed_at_writes_flushes_and_renames(torn: list[str]) -> None:
    assert "no violation" in crash("--every-write", "61", *torn)


@pytest.mark.slow
@pytest.mark.parametrize("torn", [[], ["--torn"]], ids=["before a write", "in its middle"])
def test_killed_at_every_write_flush_and_rename(torn: list[str]) -> None:
    assert "no violation" in crash("--every-write", *torn)


def test_the_command_line_killed_and_resumed(tmp_path: Path) -> None:
    rounds = 60
    command = [sys.executable, "-m", "private_distdd.cli", "distill", "--num-clients", "3", "--rounds", str(rounds)]
    command += ["--noise-multiplier", "20", "--model", "mlp", "--set", 'model_args={"width":4,"depth":1}']
    command += ["--set", "matching_steps=1", "--checkpoint", "run", "--output", "release"]
    state = tmp_path / "run" / STATE
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not state.exists():
        time.sleep(0.01)  # the imports
    time.sleep(random.uniform(0, 0.5))
    process.kill()
    assert process.wait() == -9
    done = subprocess.run([*command, "--resume"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    release = Release.load(tmp_path / "release")
    release.verify()
    assert release.card["progress"]["rounds_done"] == rounds
    for name, bill in release.card["clients"].items():
        history = parse((tmp_path / "run" / "ledgers" / f"{name}.jsonl").read_bytes())
        assert sum(isinstance(entry, Charge | Recovered) for entry in history) == bill["charges"] == rounds
        assert bill["messages_used"] == sum(isinstance(entry, Sealed) for entry in history) >= rounds - 1


def test_processes_of_their_own_killed_at_random_moments() -> None:
    script = SCRIPT.with_name("site_kills.py")
    done = subprocess.run([sys.executable, script, "--kills", "4"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 unpaid, 0 charged twice, 4 kills" in done.stdout
