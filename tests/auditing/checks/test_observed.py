"""What a process lets be seen: all of it is noted, and put back as it was."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path

import pytest

from private_distdd.auditing.checks.observed import observed_check, watched
from private_distdd.auditing.mutants.clients import CLIENTS
from private_distdd.site.client import Client


def test_everything_is_noted(tmp_path: Path) -> None:
    before = os.getcwd(), tempfile.tempdir, sys.stdout, warnings.showwarning, logging.Logger.handle
    muted = logging.getLogger("muted")
    muted.setLevel(logging.CRITICAL)
    muted.propagate = False
    with watched(tmp_path) as seen:
        muted.debug("one %d", 1)
        logging.getLogger("private_distdd_client.a").warning("two")
        print("three")
        os.write(1, b"four\n")
        warnings.warn("five", UserWarning, stacklevel=1)
        Path("six").write_text("6")
        Path(tempfile.gettempdir(), "seven").write_text("7")
    assert [line for line in seen.lines if "one 1" in line and "muted" in line]
    assert not [line for line in seen.lines if "two" in line]
    assert [line for line in seen.own if "two" in line]
    for word in ("three", "four", "five"):
        assert [line for line in seen.lines if word in line], word
    assert seen.files["work/six"] == b"6"
    assert seen.files["temporary/seven"] == b"7"
    assert before == (os.getcwd(), tempfile.tempdir, sys.stdout, warnings.showwarning, logging.Logger.handle)


def test_the_library_tells_nothing() -> None:
    record = observed_check()
    assert not record.findings
    assert record.figures["comparisons with equal messages"] >= 3  # then the contents of files were compared


class _OwnLog(Client):
    """Tells its own log how many examples it holds."""

    def __init__(self, *arguments: object, **named: object) -> None:
        super().__init__(*arguments, **named)  # type: ignore[arg-type]
        logging.getLogger(f"private_distdd_client.{self.client_id}").info("%d examples", len(arguments[1]))  # type: ignore[arg-type]


def test_a_clients_own_log_is_its_own() -> None:
    record = observed_check(_OwnLog)
    assert not record.rejected
    assert record.figures["differences in the client's own log"] > 0


@pytest.mark.parametrize("name", ["server's log", "temporary file"])
def test_what_is_told_is_in_the_findings(name: str) -> None:
    (client,) = [client for fault, client in CLIENTS if name in fault]
    assert observed_check(client).rejected
