"""What a ledger writes, and that each message is paid for and let out once."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ledgers import CHEAP, DEAR, DIGEST, full_ledger, sealed

from private_distdd.errors import ConfigurationError, LedgerError, QueryRefusedError
from private_distdd.privacy.events import Composition, SampledGaussian
from private_distdd.privacy.ledger import Budget, Charge, Ledger, Open, Pin, Sealed

# --- what is written ---


def test_every_line_is_canonical_and_chained() -> None:
    lines = full_ledger().splitlines()
    previous = "0" * 64
    for index, line in enumerate(lines):
        record = json.loads(line)
        assert json.dumps(record, sort_keys=True, separators=(",", ":")).encode() == line
        assert (record["version"], record["index"], record["previous"]) == (1, index, previous)
        previous = hashlib.sha256(line).hexdigest()
    assert [json.loads(line)["kind"] for line in lines] == ["open", "pin", "charge", "sealed", "charge"]
    assert Ledger.parse(full_ledger()).head == previous


def test_version_1_is_read_for_ever() -> None:
    """Golden bytes: this file was written by the first release."""
    ledger = Ledger(None, client_id="a")
    ledger.charge(SampledGaussian(1.5, 0.1), "r:000000")
    assert ledger.to_bytes() == GOLDEN.encode()
    assert Ledger.parse(GOLDEN.encode()).events == (SampledGaussian(1.5, 0.1),)


GOLDEN = """\
{"budget":null,"client_id":"a","crc":"5157f460","index":0,"kind":"open",\
"previous":"0000000000000000000000000000000000000000000000000000000000000000","version":1}
{"crc":"3a68857c","event":{"count":1,"kind":"sampled_gaussian","noise_multiplier":1.5,"sample_rate":0.1},"index":1,\
"kind":"charge","message_id":"r:000000",\
"previous":"a161548ee17799673dd3bb67a86652522b4be132966d4323d3c1a34f961f6e87","version":1}
"""


def test_entries_are_what_was_asked_for() -> None:
    ledger = Ledger(None, client_id="clinic")
    event = Composition((CHEAP, DEAR))
    ledger.pin("run", event, 2)
    sealed(ledger, event, "run:0")
    assert ledger.entries == (
        Open("clinic", None),
        Pin("run", event, 2),
        Charge(event, "run:0"),
        Sealed("run:0", DIGEST),
    )
    assert tuple(ledger) == Ledger.parse(ledger.to_bytes()).entries
    assert len(ledger) == 4
    assert ledger.events == (event,)
    assert (ledger.client_id, ledger.budget, ledger.path) == ("clinic", None, None)


def test_a_file_and_memory_hold_the_same_lines(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, client_id="a") as on_disk, Ledger(None, client_id="a") as in_memory:
        for ledger in (on_disk, in_memory):
            ledger.pin("r", CHEAP, 3)
            sealed(ledger, CHEAP, "r:0")
            assert path.read_bytes() == on_disk.to_bytes()
        assert on_disk.to_bytes() == in_memory.to_bytes()


def test_reopening_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path) as ledger:
        ledger.pin("r", CHEAP, 3)
        sealed(ledger, CHEAP, "r:0")
        ledger.charge(CHEAP, "r:1")
        head = ledger.head
    with Ledger(path) as ledger:
        assert (ledger.head, len(ledger), ledger.remaining("r")) == (head, 5, 1)
        assert [ledger.status(f"r:{n}") for n in range(3)] == ["sealed", "charged", "new"]
        assert [ledger.digest(f"r:{n}") for n in range(3)] == [DIGEST, None, None]
        ledger.seal("r:1", DIGEST)
    assert Ledger.parse(path.read_bytes()).count("r:") == 2


def test_the_first_line_holds_for_life(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    Ledger(path, Budget(3, 1e-5), client_id="a").close()
    for budget, client_id in ((None, None), (Budget(3, 1e-5), "a")):
        with Ledger(path, budget, client_id=client_id) as ledger:
            assert (ledger.budget, ledger.client_id) == (Budget(3.0, 1e-5), "a")
    with pytest.raises(LedgerError, match="budget"):
        Ledger(path, Budget(4, 1e-5))
    with pytest.raises(LedgerError, match="client_id"):
        Ledger(path, client_id="b")
    Ledger(path).close()  # and the refusals let go of the lock


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, True, "1", None])
def test_budgets_are_validated(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="epsilon"):
        Budget(value, 1e-5)
    with pytest.raises(ConfigurationError, match="delta"):
        Budget(1.0, value)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda ledger: ledger.charge(CHEAP, "no-round"),
        lambda ledger: ledger.charge(CHEAP, "r:0\n"),
        lambda ledger: ledger.charge(CHEAP, "r:-1"),
        lambda ledger: ledger.charge(CHEAP, "r" * 65 + ":1"),
        lambda ledger: ledger.charge(None, "r:1"),
        lambda ledger: ledger.pin("r:1", CHEAP, 1),
        lambda ledger: ledger.pin("r", "cheap", 1),
        lambda ledger: ledger.pin("r", CHEAP, 0),
        lambda ledger: ledger.pin("r", CHEAP, True),
        lambda ledger: ledger.pin("r", CHEAP, 1.0),
        lambda ledger: ledger.seal("r:1", DIGEST.upper()),
        lambda ledger: ledger.seal("r:1", DIGEST[:-1]),
        lambda ledger: Ledger(None, client_id="../a"),
        lambda ledger: Ledger(None, 3.0),
    ],
)
def test_malformed_arguments_write_nothing(wrong: Callable[[Ledger], object]) -> None:
    ledger = Ledger(None)
    with pytest.raises(ConfigurationError):
        wrong(ledger)
    assert len(ledger) == 1


# --- exactly once ---


def test_a_message_goes_from_new_to_charged_to_sealed_and_may_be_paid_again() -> None:
    ledger = Ledger(None)
    assert ledger.status("r:1") == "new"
    ledger.charge(CHEAP, "r:1")
    assert (ledger.status("r:1"), ledger.digest("r:1")) == ("charged", None)
    ledger.seal("r:1", DIGEST)
    assert (ledger.status("r:1"), ledger.digest("r:1")) == ("sealed", DIGEST)
    ledger.charge(CHEAP, "r:1")  # the sealed bytes were lost
    assert (ledger.status("r:1"), ledger.digest("r:1")) == ("charged", None)
    assert ledger.events == (CHEAP, CHEAP)
    assert (ledger.count("r:"), ledger.count("r"), ledger.count("other:")) == (2, 2, 0)


def test_one_charge_seals_one_message() -> None:
    ledger = Ledger(None)
    with pytest.raises(LedgerError, match="'new'"):
        ledger.seal("r:1", DIGEST)
    sealed(ledger, CHEAP, "r:1")
    lines = len(ledger)
    ledger.seal("r:1", DIGEST)
    assert len(ledger) == lines
    with pytest.raises(LedgerError, match="free release"):
        ledger.seal("r:1", hashlib.sha256(b"fresh noise").hexdigest())
    assert len(ledger) == lines


def test_a_pinned_run_costs_what_was_pinned_and_ends() -> None:
    ledger = Ledger(None)
    ledger.pin("r", CHEAP, 2)
    ledger.pin("r", CHEAP, 2)
    assert (len(ledger), ledger.remaining("r"), ledger.remaining("s")) == (2, 2, 0)
    for other in ((DEAR, 2), (CHEAP, 3)):
        with pytest.raises(LedgerError, match="pinned already"):
            ledger.pin("r", *other)
    with pytest.raises(QueryRefusedError, match="the pinned"):
        ledger.charge(DEAR, "r:0")
    ledger.charge(CHEAP, "r:0")
    ledger.charge(CHEAP, "r:0")  # paid twice counts twice
    with pytest.raises(QueryRefusedError, match="charge 3"):
        ledger.charge(CHEAP, "r:1")
    ledger.charge(CHEAP, "s:0")
    with pytest.raises(LedgerError, match="charged before"):
        ledger.pin("s", CHEAP, 2)
    assert ledger.events == (CHEAP,) * 3
