"""kill -9: no message that left is missing from the ledger."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from private_distdd.privacy.ledger import Ledger, Recovered

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
