"""Checks of arguments: what is no number, no whole number and no flag, True and False among the first two."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

import private_distdd
from private_distdd.errors import ConfigurationError
from private_distdd.validate import is_real, is_whole, require_count, require_flag, require_number

NEITHER = [True, False, None, "1", [1], 1j]


@pytest.mark.parametrize("value", [0, -3, 10**400])
def test_whole_numbers(value: int) -> None:
    assert is_whole(value)
    assert is_real(value)


@pytest.mark.parametrize("value", [0.0, 1.5, math.nan, -math.inf])
def test_other_numbers(value: float) -> None:
    assert not is_whole(value)
    assert is_real(value)


@pytest.mark.parametrize("value", NEITHER)
def test_what_is_no_number(value: Any) -> None:
    assert not is_whole(value)
    assert not is_real(value)
    with pytest.raises(ConfigurationError, match=re.escape(f"x = {value!r}")):
        require_count("x", value, "Count.", at_least=0)
    with pytest.raises(ConfigurationError, match=re.escape(f"x = {value!r}")):
        require_number("x", value, -1, 2, "a number", "Give one.")


def test_flags() -> None:
    assert require_flag("x", True) is True
    assert require_flag("x", False) is False
    for value in (0, 1, None, "yes", [True]):
        with pytest.raises(ConfigurationError, match=r"x = .*; allowed: True or False"):
            require_flag("x", value)


def test_no_other_module_tells_booleans_from_numbers_by_hand() -> None:
    package = Path(private_distdd.__file__).parent
    by_hand = (
        r"isinstance\(.*, bool\) (or|and) (not )?isinstance\(.*, int",
        r"isinstance\(.*int.*not isinstance\(.*, bool",
    )
    guard = re.compile("|".join(by_hand))
    found = [str(p.relative_to(package)) for p in package.rglob("*.py") if guard.search(p.read_text(encoding="utf-8"))]
    assert found == ["validate.py"]
