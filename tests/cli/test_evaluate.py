"""`private-distdd evaluate`: no claim that does not verify, and other data are said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from commands import QUICK

from private_distdd import Release
from private_distdd.cli import main


def test_evaluate_does_not_print_a_claim_that_does_not_verify(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", *QUICK, "--target-epsilon", "5", "--output", "run"]) == 0
    release = Release.load("run")
    card = json.loads(json.dumps(release.card))
    for bill in card["clients"].values():
        bill["claim"]["epsilon"] = bill["claim"]["prv"] = bill["claim"]["rdp"] = 0.5
    Release(release.dataset, card, release.ledgers).save("forged")
    capsys.readouterr()
    assert main(["evaluate", "forged", "--epochs", "1", "--seeds", "1"]) == 0
    out = capsys.readouterr().out
    assert "NOT VERIFIED" in out or "does not verify" in out
    assert "0.5" not in out.partition(";")[2]
    assert main(["evaluate", "run", "--epochs", "1", "--seeds", "1"]) == 0
    assert "epsilon 5.000 at delta 1e-05" in capsys.readouterr().out


def test_evaluating_on_other_data_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez("own.npz", x_train=x, y_train=np.arange(40) % 10, x_test=x, y_test=np.arange(40) % 10)
    assert main(["distill", *QUICK, "--target-epsilon", "5", "--output", "run"]) == 0
    assert main(["evaluate", "run", "--dataset", "own.npz", "--seeds", "1", "--epochs", "1"]) == 0
    assert "S stands for 'digits', the test images are of 'own'" in capsys.readouterr().err
    assert main(["verify", "nowhere"]) == 2
    assert "no such folder" in capsys.readouterr().err
