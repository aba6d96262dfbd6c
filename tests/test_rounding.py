"""What is printed of an upper bound is an upper bound."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from private_distdd.rounding import in_bytes, rounded_down, rounded_up


@given(st.floats(1e-12, 1e12), st.integers(1, 8))
def test_it_is_never_below_and_hardly_above(value: float, digits: int) -> None:
    high, low, exact = Decimal(rounded_up(value, digits)), Decimal(rounded_down(value, digits)), Decimal(repr(value))
    assert low <= exact <= high
    assert high - low <= exact * Decimal(10) ** (1 - digits)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(3.99725, "3.998"), (5.0, "5.000"), (0.0, "0"), (math.inf, "∞"), (1e-9, "1.000e-9"), (99999.5, "1.000e+5")],
)
def test_examples(value: float, shown: str) -> None:
    assert rounded_up(value) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 bytes"),
        (7, "7.00 bytes"),
        (999, "999 bytes"),
        (1000, "1.00 kB"),
        (1001, "1.01 kB"),
        (12_345_678, "12.4 MB"),
        (10**18, "1.00e+6 TB"),
    ],
)
def test_bytes(count: int, shown: str) -> None:
    assert in_bytes(count) == shown
