"""CI's budget of hostile cases; see this folder's `__init__` for more of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from private_distdd.errors import ConfigurationError
from private_distdd.privacy.events import NotPrivate
from private_distdd.privacy.ledger import Ledger

from . import harness
from .checkpoints import check_resume, checkpoints
from .harness import Finding, answered, outcome, succeeds
from .mutate import HOSTILE, dump, edited
from .releases import TAUGHT, command, releases
from .targets import TARGETS, Target
from .valid import NAMES, RUNS


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """A client's own log of thousands of refusals helps nobody."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_no_case_is_a_finding(target: Target) -> None:
    @settings(max_examples=target.cases, suppress_health_check=list(HealthCheck))
    @given(target.strategy())
    def attack(case: Any) -> None:
        target.check(case)

    attack()


def test_there_are_ten_thousand_cases() -> None:
    assert sum(target.cases for target in TARGETS) >= 10_000


# The fuzzers themselves: what is sound passes, and each property fails where it does not hold


@pytest.mark.parametrize("name", sorted(RUNS))
def test_what_is_not_changed_is_no_finding(name: str) -> None:
    check_resume((name, (), (), (), ()))
    checkpoints((name, (), (), (), ()))
    if name in ("distdd", "collabdm open"):
        releases((name, "card", ()))
        command((name, "ledger", ()))
    if name == "distdd":
        releases((f"{name}{TAUGHT}", "header of teacher.safetensors", ()))


def test_raw_errors_are_found_and_named_once() -> None:
    found = []
    for text in ("one", "another"):
        with pytest.raises(Finding, match="raw error: KeyError") as caught:
            outcome(lambda text=text: {}[text])  # type: ignore[misc]
        found.append(caught.value.kind)
    assert found[0] == found[1]
    own = ConfigurationError("a", "b", "c")
    assert outcome(lambda: _raise(own)) is own
    with pytest.raises(Finding, match="valid call fails"):
        succeeds(lambda: _raise(own))


def test_a_charge_without_a_message_is_found() -> None:
    ledger = Ledger(None)

    def charge(error: Exception | None) -> None:
        ledger.charge(NotPrivate(), f"{NAMES[0]}:{len(ledger)}")
        if error is not None:
            raise error

    assert answered(ledger, lambda: charge(None)) is None
    for error in (ConfigurationError("a", "b", "c"), TypeError()):
        with pytest.raises(Finding, match="charged without a message"):
            answered(ledger, lambda error=error: charge(error))  # type: ignore[misc]


def test_too_much_time_or_memory_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "SECONDS", 0.2)
    monkeypatch.setattr(harness, "BYTES", 1 << 26)

    def endless() -> None:
        while True:
            time.process_time()

    with pytest.raises(Finding, match="seconds"):
        outcome(endless)
    with pytest.raises(Finding):
        outcome(lambda: bytearray(1 << 31).count(1))
    assert outcome(lambda: 1) == 1


def test_changes_are_made_where_they_are_said() -> None:
    record = {"a": [1, {"b": "text"}], "c": 2}
    assert edited(record, [(("a", 1, "b"), "replace", None)]) == {"a": [1, {"b": None}], "c": 2}
    assert edited(record, [(("c",), "drop", None), (("c",), "replace", 1)]) == {"a": [1, {"b": "text"}]}
    assert edited(record, [(("a",), "add", 7)])["a"] == [1, {"b": "text"}, 7]
    assert edited(record, [((), "replace", 5)]) == 5
    assert record == {"a": [1, {"b": "text"}], "c": 2}
    assert all(dump({"a": value}) for value in HOSTILE)


def _raise(error: Exception) -> None:
    raise error
