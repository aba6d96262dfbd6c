"""`private-distdd plan`."""

from __future__ import annotations

import pytest

from private_distdd.cli import main


def test_plan_says_it_in_words_and_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--target-epsilon", "8", "--rounds", "20"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "20 queries to each client cost epsilon 8.000 at delta 1e-05: limited privacy." in out
    assert "at most 2990 times as likely with an example as without it" in out
    assert "RDP" not in out
    assert "pays 20 queries" in out
    assert "█" in out
