"""`private-distdd sweep`: a table out, exit codes, a second call that runs nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from conformance import raising

from private_distdd.cli import main
from private_distdd.methods.distdd_course import DistDDCourse

CONFIG = """
[data]
dataset = "wine"
[split]
num_clients = 2
[[method]]
name = "distdd"
rounds = 1
matching_steps = 1
ipc = 1
model = "mlp"
model_args = { width = 16 }
[[privacy]]
target_epsilon = [1, 8]
[evaluation]
model = "mlp"
networks = 1
epochs = 2
"""


def test_a_sweep_and_the_same_again(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("wine.toml").write_text(CONFIG)
    assert main(["sweep", "wine.toml"]) == 0
    said = capsys.readouterr()
    assert "8.000" in said.out
    assert "held-out examples" in said.out
    assert "next: open wine/sweep.html" in said.out
    assert "2 cells" in said.err
    assert "NOT PRIVATE" not in said.err
    times = {path: path.stat().st_mtime_ns for path in Path("wine/cells").iterdir()}
    assert main(["sweep", "wine.toml", "--output", "wine"]) == 0
    assert {path: path.stat().st_mtime_ns for path in Path("wine/cells").iterdir()} == times


def test_ctrl_c_stops_it_and_keeps_what_is_done(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("wine.toml").write_text(CONFIG)
    step = raising(KeyboardInterrupt, DistDDCourse.step, 2)
    with monkeypatch.context() as patch:
        patch.setattr(DistDDCourse, "step", step)
        assert main(["sweep", "wine.toml"]) == 130
    assert "stopped by Ctrl-C; 1 of 2 cells are done and kept in wine" in capsys.readouterr().err
    assert len(list(Path("wine/cells").iterdir())) == 1
    assert main(["sweep", "wine.toml"]) == 0


def test_without_privacy_it_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("wine.toml").write_text(CONFIG.replace("[1, 8]", "1") + "[[privacy]]\n")
    assert main(["sweep", "wine.toml"]) == 0
    said = capsys.readouterr()
    assert "NOT PRIVATE: 1 of them" in said.err
    assert "∞" in said.out


def test_a_failed_cell_is_the_exit_status(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("wine.toml").write_text(CONFIG + 'labels = ["soft", "hard"]\n')
    assert main(["sweep", "wine.toml"]) == 1
    assert "soft labels of a synthetic set that has none" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [("rounds = 1", "rounds = [1, 0]", "rounds = 0"), ("[split]", "[splt]", "'splt'"), ("[split]", "[split", "TOML")],
)
def test_a_bad_configuration_runs_nothing(
    old: str, new: str, said: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("wine.toml").write_text(CONFIG.replace(old, new))
    assert main(["sweep", "wine.toml"]) == 2
    assert said in capsys.readouterr().err
    assert not Path("wine").exists()
