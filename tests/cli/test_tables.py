"""Tables on the command line: scikit-learn's by name, and a CSV file with a column of classes."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from private_distdd import Release
from private_distdd.cli import main
from private_distdd.data.load import published_names

MLP = ["--model", "mlp", "--set", 'model_args={"width":8,"depth":1}', "--rounds", "2", "--num-clients", "3"]
MLP += ["--set", "matching_steps=2"]


@pytest.fixture
def table(here: Path) -> Path:
    """48 people; the column of classes is the second."""
    rows = [f"{20 + i},{('well', 'ill')[i % 2]},{i % 2 + i / 1000}" for i in range(48)]
    path = here / "people.csv"
    path.write_text("\n".join(["age,state of health,marker", *rows]) + "\n")
    return path


@pytest.mark.parametrize("method", ["distdd", "collabdm"])
def test_a_csv_file_from_end_to_end(table: Path, capsys: pytest.CaptureFixture[str], method: str) -> None:
    once = ["--model", "mlp", "--num-clients", "3", "--ipc", "2"]
    for knob in ("matching_steps=2", "networks=2", "embedding_rounds=1", "teacher_rounds=0", "refinement_rounds=0"):
        once += ["--set", knob]
    distill = ["distill", "--method", method, "--dataset", "people.csv", *(MLP if method == "distdd" else once)]
    distill += ["--label", "state of health", "--target-epsilon", "5", "--output", "run"]
    assert main(distill) == 2  # the class list of private data is no public constant
    assert "add --num-classes N, or --classes A,B,..." in capsys.readouterr().err
    assert main([*distill, "--classes", "well,ill"]) == 0
    out = capsys.readouterr().out
    assert f"run: {20 if method == 'distdd' else 4} rows, epsilon 5.000 at delta 1e-05 a client" in out
    info = Release.load("run").dataset.info
    assert (info.name, info.num_classes, info.shape) == ("people", 2, (2,))
    assert main(["verify", "run"]) == 0
    (line,) = [line for line in out.splitlines() if line.startswith("next: private-distdd ")]
    said = shlex.split(line.removeprefix("next: private-distdd "))
    assert said[-6:] == ["--label", "state of health", "--classes", "well,ill", "--model", "mlp"]
    capsys.readouterr()
    assert main([*said, "--seeds", "1", "--epochs", "1"]) == 0
    assert "accuracy on 12 real test rows of people" in capsys.readouterr().out


def test_without_a_label_the_last_column_is_the_class(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_run = ["distill", "--dataset", "people.csv", *MLP, "--output"]
    assert main([*open_run, "run"]) == 2  # the second column holds no numbers
    assert "people.csv" in capsys.readouterr().err
    assert main([*open_run, "run", "--label", "salary"]) == 2
    assert main(["distill", *MLP, "--label", "age", "--output", "run"]) == 2  # digits have no columns
    assert "label = 'age' for 'digits'" in capsys.readouterr().err
    table.write_text(table.read_text().replace("well", "0").replace("ill", "1"))
    swapped = [",".join(row.split(",")[::2] + row.split(",")[1:2]) for row in table.read_text().splitlines()]
    table.write_text("\n".join(swapped) + "\n")
    assert main([*open_run, "run"]) == 0
    assert Release.load("run").dataset.info.num_classes == 2


def test_ledgers_belong_to_one_column_of_classes(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["distill", "--dataset", "people.csv", *MLP, "--num-classes", "2", "--noise-multiplier", "2"]
    table.write_text("age,sick,smokes\n" + "".join(f"{20 + i},{i % 2},{i // 2 % 2}\n" for i in range(48)))
    assert main([*run, "--label", "sick", "--checkpoint", "state", "--output", "run"]) == 0
    assert json.loads(Path("state/split.json").read_text())["label"] == "sick"
    assert main([*run, "--label", "smokes", "--checkpoint", "state", "--resume", "--output", "other"]) == 2
    assert "belong to other data" in capsys.readouterr().err


def test_a_published_table_needs_no_class_list(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", "--dataset", "iris", *MLP, "--target-epsilon", "5", "--output", "run"]) == 0
    assert main(["evaluate", "run", "--model", "mlp", "--seeds", "1", "--epochs", "1"]) == 0
    assert "real test rows of iris" in capsys.readouterr().out
    assert main(["evaluate", "run", "--seeds", "1", "--epochs", "1"]) == 2
    assert "Use 'mlp'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["distill", "evaluate"])
def test_help_names_every_published_data_set(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    words = capsys.readouterr().out.replace(",", " ").split()
    assert set(published_names()) <= set(words)
