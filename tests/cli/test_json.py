"""`--json`: one JSON object on standard output, with the figures that the words round."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import QUICK

from private_distdd import Release
from private_distdd.cli import demonstration, main
from private_distdd.evaluation import Evaluation
from private_distdd.networks.scores import Scores
from private_distdd.networks.spec import ModelSpec
from private_distdd.release.release import manifest_hash

Told = Callable[..., dict[str, Any]]


@pytest.fixture
def told(here: Path, capsys: pytest.CaptureFixture[str]) -> Told:
    """told(*arguments, code=0): the object that a command prints."""

    def run(*arguments: str, code: int = 0) -> dict[str, Any]:
        capsys.readouterr()
        assert main([*arguments, "--json"]) == code
        found: dict[str, Any] = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
        return found

    return run


def test_plan(told: Told) -> None:
    found = told("plan", "--rounds", "20", "--target-epsilon", "8")
    assert 7.99 < found["epsilon"] <= 8.0
    assert found["grade"] == "limited"
    assert found["epsilon_after"]["20"] == found["epsilon"]
    assert found["plan"]["max_queries"] == found["affordable_queries"] == 20


def test_distill_verify_and_evaluate(told: Told) -> None:
    made = told("distill", *QUICK, "--target-epsilon", "5", "--output", "run")
    release = Release.load("run")
    assert made["epsilon"] == release.epsilon
    assert made["manifest"] == manifest_hash(Path("run"))
    assert made["grade"] == "limited"
    checked = told("verify", "run")
    assert checked["failures"] == []
    assert {name: checked[name] for name in ("private", "epsilon", "delta", "grade")} == {
        name: made[name] for name in ("private", "epsilon", "delta", "grade")
    }
    assert set(checked["signers"]) == set(release.epsilon)
    scored = told("evaluate", "run", "--model", "mlp", "--seeds", "1", "--epochs", "1")
    assert len(scored["accuracies"]) == 1
    assert scored["mean"] == scored["accuracies"][0]
    assert scored["std"] is None  # of one network there is none
    assert scored["examples"] == 445
    Path("run/preview.png").write_bytes(b"x")
    failed = told("verify", "run", code=1)
    assert failed["failures"]
    assert "epsilon" not in failed


def test_without_privacy_there_is_no_epsilon(told: Told) -> None:
    found = told("distill", *QUICK, "--output", "run")
    assert found["private"] is False
    assert "epsilon" not in found
    assert set(found["spent"].values()) == {"infinity"}


def test_sweep(told: Told) -> None:
    Path("wine.toml").write_text(
        """
seeds = [0]
[data]
dataset = "wine"
[split]
num_clients = 2
[method]
name = "distdd"
rounds = 1
matching_steps = 1
ipc = 1
model = "mlp"
model_args = { width = 16 }
[privacy]
target_epsilon = 8
[evaluation]
model = "mlp"
networks = 1
epochs = 2
"""
    )
    (record,) = told("sweep", "wine.toml")["records"]
    assert record["status"] == "done"
    assert 7.9 < record["epsilon"] <= 8.0


@pytest.mark.usefixtures("short_audit")
def test_audit(told: Told) -> None:
    constants = {"noise_multiplier": 1.0, "sample_rate": 0.5, "max_queries": 2, "delta": 1e-5}
    Path("plan.json").write_text(json.dumps(constants | {"max_grad_norm": 1.0, "divisor": 1.0}))
    found = told("audit", "plan.json", "--quick", "--output", "report")
    assert found["rejected"] is False
    assert found["records"] == json.loads(Path("report/audit.json").read_text())["records"]


def test_demo(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ROUNDS", "STEPS", "ONCE_STEPS"):
        monkeypatch.setattr(demonstration, name, 1)
    scores = [Scores(accuracy, 0.5, 0.5, ()) for accuracy in (0.5, 0.75)]
    scored = Evaluation(ModelSpec("convnet"), (0, 1), tuple(scores))
    monkeypatch.setattr(demonstration, "score", lambda *arguments, **named: scored)
    found = told("demo", "--output", "run")
    assert [row["accuracies"] for row in found["rows"]] == [[0.5, 0.75]] * 5
    assert [row["epsilon"] for row in found["rows"][:3]] == ["infinity"] * 3
    assert all(7.9 < row["epsilon"] <= 8.0 for row in found["rows"][3:])
    assert math.isfinite(found["delta"])
    assert Path("run/card.json").exists()
