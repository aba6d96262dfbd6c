"""`private-distdd distill --method collabdm`."""

from __future__ import annotations

from pathlib import Path

import pytest

from private_distdd import Release
from private_distdd.cli import main

ONE_SHOT = ["distill", "--method", "collabdm", "--num-clients", "3", "--ipc", "1", "--model", "mlp"]
for _knob in (
    'model_args={"width":16,"depth":1}',
    "networks=2",
    "frequencies=8",
    "bandwidth=0.5",
    "partition=2",
    "pool=2",
    "matching_steps=3",
    "smoothness=0.1",
    "embedding_rounds=1",
    "teacher_rounds=0",
    "refinement_rounds=0",
):
    ONE_SHOT += ["--set", _knob]


def test_one_shot_distillation(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ONE_SHOT, "--target-epsilon", "5", "--output", "run"]) == 0
    captured = capsys.readouterr()
    assert "epsilon 5.000 at delta 1e-05 a client" in captured.out
    assert "NOT PRIVATE" not in captured.out + captured.err
    release = Release.load("run")
    assert release.card["method"]["name"] == "CollabDM"
    assert release.card["plan"]["max_queries"] == 1
    assert release.dataset.partition == 2
    assert len(release.dataset) == 40
    assert main(["verify", "run"]) == 0
    assert "checks out" in capsys.readouterr().out
    evaluation = ["evaluate", "run", "--model-args", '{"width":8}', "--seeds", "1", "--epochs", "1"]
    assert main(evaluation) == 0
    assert "445 real test images of digits" in capsys.readouterr().out
    assert main([*ONE_SHOT, "--output", "open"]) == 0
    assert "NOT PRIVATE" in capsys.readouterr().err
    assert not Release.load("open").private


def test_rounds_of_all_kinds(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    knobs = {"embedding_rounds": "2", "teacher_rounds": "3", "refinement_rounds": "1", "network_epochs": "1"}
    knobs |= {"teacher": "mlp", "teacher_args": '{"width":4,"depth":1}', "teacher_rate": "0.5", "teacher_momentum": "0"}
    given = [part for name, value in knobs.items() for part in ("--set", f"{name}={value}")]
    assert main([*ONE_SHOT, *given, "--target-epsilon", "5", "--output", "run"]) == 0
    assert "epsilon 5.000 at delta 1e-05 a client" in capsys.readouterr().out
    release = Release.load("run")
    settings = release.card["method"]["settings"]
    assert {name: settings[name] for name in knobs} == {
        "embedding_rounds": 2,
        "teacher_rounds": 3,
        "refinement_rounds": 1,
        "network_epochs": 1,
        "teacher": "mlp",
        "teacher_args": {"width": 4, "depth": 1},
        "teacher_rate": 0.5,
        "teacher_momentum": 0,
    }
    assert release.card["plan"]["max_queries"] == 6
    assert release.teacher is not None
    assert release.dataset.soft_labels is not None
    assert main(["verify", "run"]) == 0
    assert main(["evaluate", "run", "--teacher"]) == 0
    assert "(the release's classifier, mlp)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rounds", "5"], "--rounds 5 with --method collabdm"),
        (["--rounds", "1"], "--rounds 1 with --method collabdm"),
        (["--participation", "0.5"], "--participation 0.5 with --method collabdm"),
        (["--set", "rounds=5"], "--set rounds=5"),
        (["--set", "memory=5"], "--set memory=5"),
        (["--set", "partition=3"], "partition = 3"),
        (["--set", "pool=5"], "pool = 5"),
        (["--set", "networks=0"], "networks = 0"),
        (["--set", "embedding_rounds=3"], "embedding_rounds = 3 with networks = 2"),
        (["--set", "teacher_rounds=1.5"], "teacher_rounds = 1.5"),
        (["--set", "teacher_rounds=1", "--set", "teacher=perceptron"], "perceptron"),
        (["--set", "refinement_rounds=-1"], "refinement_rounds = -1"),
        (["--set", "bandwidth=NaN"], "bandwidth = nan"),
        (["--target-epsilon", "1", "--max-grad-norm", "0.5"], "max_grad_norm = 0.5 with CollabDM"),
        (["--target-epsilon", "1", "--set", "local_steps=5"], "local_steps = 5 with privacy"),
    ],
)
def test_bad_arguments_of_one_shot_distillation_are_one_clear_error(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main([*ONE_SHOT, "--output", "run", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "allowed:" in error
    assert "Traceback" not in error
    assert len([line for line in error.splitlines() if "allowed:" in line]) == 1
    assert not any(here.glob("run*"))
