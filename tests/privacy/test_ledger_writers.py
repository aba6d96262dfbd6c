"""One writer a ledger: processes, objects, threads, forks."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from ledgers import CHEAP

from private_distdd.errors import LedgerError, QueryRefusedError
from private_distdd.privacy.ledger import Ledger

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
