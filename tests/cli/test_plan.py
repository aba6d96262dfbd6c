"""`private-distdd plan`."""

from __future__ import annotations

import pytest

from private_distdd.cli import main


def test_plan_prints_a_table_and_a_curve(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--target-epsilon", "8", "--rounds", "20"]) == 0
    out = capsys.readouterr().out
    assert "epsilon 8.000 at delta 1e-05" in out
    assert "pays 20 queries" in out
    assert "█" in out
