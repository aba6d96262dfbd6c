"""Fixtures of these tests."""

from __future__ import annotations

import pytest
from conformance import CASES, Case


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param
