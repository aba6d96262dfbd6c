"""Three hospitals on this machine, each a process of its own: the example's own checks, seen to hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("flwr")  # it needs Python 3.11

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_three_hospitals_one_of_which_dies_and_comes_back(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.flower.run", "--folder", str(tmp_path / "all")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "processes left: 0" in done.stdout
    log = (tmp_path / "all" / "hospital-b" / "site.log").read_text()
    assert "answered 'not_enrolled'" in log  # it was started anew, within the run
    assert len(list((tmp_path / "all" / "server" / "app" / "releases").iterdir())) == 2
    assert "NotEnrolled" not in (tmp_path / "all" / "server" / "superlink.out").read_text()
