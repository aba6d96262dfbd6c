"""A sweep runs each cell once, whatever ends it, and its files say what was found."""

from __future__ import annotations

import csv
import json
import math
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

import private_distdd.experiments.run as running
from private_distdd import DistDD, NotPrivateWarning, sweep
from private_distdd.errors import ConfigurationError
from private_distdd.experiments.cell import Cell
from private_distdd.experiments.config import Sweep
from private_distdd.experiments.frontier import Mark, frontier
from private_distdd.experiments.progress import seconds_left
from private_distdd.experiments.results import points
from private_distdd.methods.distdd_course import DistDDCourse

Config = dict[str, Any]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the cells that are built in order to be run, as they come."""
    ids: list[str] = []
    build = running.build

    def counted(cell: Cell) -> Any:
        ids.append(cell.id)
        return build(cell)

    monkeypatch.setattr(running, "build", counted)
    return ids


def test_a_sweep_that_ends_in_the_middle_goes_on(
    small: Config, ran: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small | {"seeds": [0, 1, 2, 3]}
    ids = [cell.id for cell in Sweep.of(config).cells]
    step = DistDDCourse.step

    def interrupted(self: DistDDCourse, *arguments: Any) -> float:
        if len(ran) == 3:
            signal.raise_signal(signal.SIGINT)
        return step(self, *arguments)

    monkeypatch.setattr(DistDDCourse, "step", interrupted)
    before_it = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt, match="2 of 4 cells are done and kept in"):
            sweep(config, tmp_path / "s")
    finally:
        signal.signal(signal.SIGINT, before_it)
    assert ran == ids[:3]
    assert sorted(path.stem for path in (tmp_path / "s" / "cells").iterdir()) == sorted(ids[:2])
    assert "2 of 4 cells done" in (tmp_path / "s" / "sweep.html").read_text()
    monkeypatch.setattr(DistDDCourse, "step", step)
    before = {path: path.read_bytes() for path in (tmp_path / "s" / "cells").iterdir()}
    records = sweep(config, tmp_path / "s")
    assert ran[3:] == ids[2:]
    assert [record["id"] for record in records] == ids
    assert all(path.read_bytes() == data for path, data in before.items())
    sweep(config | {"seeds": [3, 4]}, tmp_path / "s")  # what is new in it
    assert len(ran) == 3 + 2 + 1
    assert json.loads((tmp_path / "s" / "results.json").read_text())["cells"] == 2


def test_every_cell_is_checked_before_the_first_is_run(small: Config, ran: list[str], tmp_path: Path) -> None:
    small["method"]["rounds"] = [1, 2, 0]
    with pytest.raises(ConfigurationError, match=r"rounds = 0, in the cell data\.dataset = wine"):
        sweep(small, tmp_path / "s")
    assert ran == []
    assert not (tmp_path / "s").exists()


def test_a_cell_that_fails_is_told_and_tried_again_and_the_others_go_on(
    small: Config, ran: list[str], tmp_path: Path
) -> None:
    small["evaluation"]["labels"] = ["soft", "hard"]  # S of such a run has no soft ones, which shows at its end
    small["method"]["deadline"] = [None, 1e-9]  # nobody can answer in time
    records = sweep(small, tmp_path / "s")
    assert [record["status"] for record in records] == ["failed", "done", "failed", "failed"]
    assert "soft labels of a synthetic set that has none" in records[0]["error"]
    assert "a run that no client agrees to" in records[2]["error"]
    page = (tmp_path / "s" / "sweep.html").read_text()
    assert "1 of 4 cells done, 3 failed" in page
    assert "soft labels of a synthetic set that has none" in page
    sweep(small, tmp_path / "s")
    assert len(ran) == 4 + 3


def test_records_are_shown_as_a_table(small: Config, tmp_path: Path) -> None:
    small["method"]["deadline"] = [None, 1e-9]  # nobody can answer in time
    records = sweep(small, tmp_path / "s")
    head, names, line = repr(records).splitlines()
    assert head == "2 cells, 1 failed"
    assert names.split() == ["method", "epsilon", "accuracy"]
    assert re.fullmatch(r"distdd, deadline = None  [0-9.]+ +[0-9.]+%", line)
    assert "<td>distdd, deadline = None</td>" in records._repr_html_()
    for record in records:
        record["settings"]["method"]["name"] = "<b>"
    assert "<td>&lt;b&gt;" in records._repr_html_()


def test_progress_tells_cells_and_failures(small: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small["method"]["deadline"] = [None, 1e-9]  # nobody can answer in time
    sweep(small, tmp_path / "s", progress=True)
    lines = capsys.readouterr().err.splitlines()
    told = [line for line in lines if line.startswith("cell ")]
    assert told[0].startswith("cell 0/2, 0:00:0")
    assert told[-1].startswith("cell 2/2, 0:00:0")
    assert told[-1].endswith(", 1 failed")


def test_clients_alone_are_federations_of_one(small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fits: list[list[str]] = []
    fit = DistDD.fit

    def noted(self: DistDD, clients: Any, **options: Any) -> Any:
        fits.append([client.client_id for client in clients])
        return fit(self, clients, **options)

    monkeypatch.setattr(DistDD, "fit", noted)
    small["split"] = {"num_clients": 3, "alone": True}
    small["evaluation"]["networks"] = 2
    (record,) = sweep(small, tmp_path / "s")
    assert fits == [["client-00"], ["client-01"], ["client-02"]]
    assert [len(record[name]) for name in ("accuracies", "balanced_accuracies", "aucs", "confusion")] == [6] * 4
    assert record["accuracy"] == pytest.approx(sum(record["accuracies"]) / 6)
    small["split"] = {"num_clients": 3}
    (together,) = sweep(small, tmp_path / "t")
    assert record["epsilon"] == together["epsilon"]  # each client's bill, whoever takes part
    assert record["synthetic"] is None
    assert together["synthetic"] is not None


def test_a_run_that_lost_its_clients_is_no_result(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def last(self: DistDDCourse, *arguments: Any) -> float:
        self.session.active.clear()
        return 0.0

    small["method"]["rounds"] = 2
    monkeypatch.setattr(DistDDCourse, "step", last)
    (record,) = sweep(small, tmp_path / "s")
    assert record["status"] == "failed"
    assert "no client was left" in record["error"]


def test_whatever_a_cell_raises_the_others_go_on(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> float:
        raise RuntimeError("out of <memory>")

    monkeypatch.setattr(DistDDCourse, "step", broken)
    (record,) = sweep(small, tmp_path / "s")
    assert record["error"] == "RuntimeError: out of <memory>"
    assert "out of &lt;memory&gt;" in (tmp_path / "s" / "sweep.html").read_text()


def test_files_say_what_was_found(small: Config, tmp_path: Path) -> None:
    config = small | {"seeds": [0, 1], "privacy": [{"target_epsilon": [1, 8]}, {}]}
    config["evaluation"]["networks"] = 2
    with pytest.warns(NotPrivateWarning, match="NOT private") as warned:
        records = sweep(config, tmp_path / "s")
    assert len(warned) == 1  # once for all
    written = json.loads((tmp_path / "s" / "results.json").read_text())
    assert written["records"] == records
    assert written["config"]["privacy"] == [{"target_epsilon": [1, 8]}, {}]
    with open(tmp_path / "s" / "results.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(records) == 6
    for row, record in zip(rows, records, strict=True):
        assert (row["id"], row["method.name"]) == (record["id"], "distdd")
        assert int(row["seed"]) == record["settings"]["seed"]
        assert json.loads(row["method.model_args"]) == record["settings"]["method"]["model_args"]
        for name in ("epsilon", "epsilon_rdp", "epsilon_prv", "accuracy", "accuracy_std", "bytes_sent"):
            assert float(row[name]) == float(record[name])
        assert float(row["seconds.distillation"]) == record["seconds"]["distillation"]
        assert json.loads(row["accuracies"]) == record["accuracies"]
        assert row["versions.torch"] == record["versions"]["torch"]
    target = float(rows[1]["privacy.target_epsilon"])
    assert 0.99 * target < float(rows[1]["epsilon_prv"]) <= target < float(rows[1]["epsilon_rdp"])
    assert (rows[2]["epsilon"], rows[2]["privacy.target_epsilon"], rows[2]["delta"]) == ("infinity", "", "")


def test_the_page_shows_the_frontier_the_table_and_the_price_of_choosing(small: Config, tmp_path: Path) -> None:
    config = small | {"seeds": [0, 1], "privacy": {"target_epsilon": [1, 8]}}
    config["method"]["rounds"] = [1, 2]
    records = sweep(config, tmp_path / "s")
    page = (tmp_path / "s" / "sweep.html").read_text()
    assert page.count("<tr><th scope=row>distdd, rounds = ") == 4
    assert page.count('r="4"') == 4  # a mark each
    assert page.count('r="3.5"') == 2  # a line each
    assert "A choice spends privacy" in page
    assert "these 8 cost at most ε = 36" in page
    assert "held out" in page
    assert "src=" not in page
    assert "href" not in page
    first, *_ = found = points(records)
    assert [point.label for point in found] == ["distdd, rounds = 1"] * 2 + ["distdd, rounds = 2"] * 2
    means = [record["accuracy"] for record in first.records]
    score = first.score()
    assert score is not None
    assert score[1] is not None
    assert score[0] == pytest.approx(sum(means) / 2)
    assert score[1] == pytest.approx(abs(means[0] - means[1]) / math.sqrt(2))
    assert f"<td>{score[0]:.1%} ± {100 * score[1]:.1f}</td>" in page
    final = config | {"evaluation": config["evaluation"] | {"on": "test"}, "seeds": 0}
    sweep(final, tmp_path / "final")
    page = (tmp_path / "final" / "sweep.html").read_text()
    assert "<b>test set</b>" in page
    assert "held out" not in page


def test_runs_without_privacy_end_the_line_of_those_with_it(small: Config, tmp_path: Path) -> None:
    small["privacy"] = [{"target_epsilon": 1, "sample_rate": 1}, {"target_epsilon": 8, "sample_rate": 1}, {}]
    with pytest.warns(NotPrivateWarning):
        records = sweep(small, tmp_path / "s")
    assert [(point.label, math.isinf(point.epsilon())) for point in points(records)] == [
        ("distdd", False),
        ("distdd", False),
        ("distdd", True),
    ]
    page = (tmp_path / "s" / "sweep.html").read_text()
    assert "all of them together promise nothing" in page
    assert ">not private</text>" in page


def test_a_teacher_is_scored_beside_s(small: Config, tmp_path: Path) -> None:
    small["data"] = {"dataset": "digits"}
    small["evaluation"]["model_args"] = {"width": 16}
    small["method"] = {"name": "collabdm", "networks": 2, "ipc": 1, "teacher_rounds": 2, "matching_steps": 1}
    (record,) = sweep(small, tmp_path / "s")
    assert record["status"] == "done", record
    assert 0 < record["teacher_accuracy"] < 1
    assert "collabdm; its teacher" in (tmp_path / "s" / "sweep.html").read_text()


def test_a_baseline_is_scored_by_its_own_network(small: Config, tmp_path: Path) -> None:
    knobs = {"model": "mlp", "model_args": {"width": 16, "depth": 1}, "rounds": 1}
    small["method"] = [small["method"], {"name": "fedavg", "local_steps": 2, **knobs}]
    distilled, trained = sweep(small, tmp_path / "out")
    assert (trained["status"], trained["synthetic"], trained["teacher_accuracy"]) == ("done", None, None)
    assert trained["accuracies"] == [trained["accuracy"]]
    assert 0 <= trained["accuracy"] <= 1
    assert trained["epsilon"] > distilled["epsilon"]  # two events in its one query
    assert "fedavg" in (tmp_path / "out" / "sweep.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["file", "folder"])
def test_a_place_of_somebody_else_is_left_alone(name: str, small: Config, ran: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigurationError, match="is there"):
        sweep(small, tmp_path / name)
    assert ran == []


def test_two_sweeps_do_not_share_a_folder(small: Config, ran: list[str], tmp_path: Path) -> None:
    (tmp_path / "s" / "cells").mkdir(parents=True)
    with FileLock(tmp_path / "s" / "sweep.lock"), pytest.raises(ConfigurationError, match="is in use"):
        sweep(small, tmp_path / "s")
    assert ran == []


def test_a_damaged_record_is_said(small: Config, tmp_path: Path) -> None:
    sweep(small, tmp_path / "s")
    (path,) = (tmp_path / "s" / "cells").iterdir()
    for damage in ("{", "[]", '{"format": "another"}'):
        path.write_text(damage)
        with pytest.raises(ConfigurationError, match="Delete it"):
            sweep(small, tmp_path / "s")


def test_arguments_are_checked(small: Config, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="processes = 0"):
        sweep(small, tmp_path / "s", processes=0)
    with pytest.raises(ConfigurationError, match="without output"):
        sweep(small)


def test_time_left_is_by_the_same_method(small: Config) -> None:
    fast, slow = Sweep.of(small | {"method": [{"name": "fast"}, {"name": "slow"}]}).cells

    def done(cell: Cell, seconds: float) -> Config:
        spent = {"distillation": seconds, "evaluation": 0.0}
        return {"status": "done", "settings": cell.record, "seconds": spent}

    assert seconds_left([], [fast, slow], 1) is None
    assert seconds_left([done(fast, 2.0)], [fast, slow], 1) == 4.0
    assert seconds_left([done(fast, 2.0), done(slow, 10.0)], [fast, slow, slow], 1) == 22.0
    assert seconds_left([done(fast, 2.0), done(slow, 10.0)], [fast, slow, slow], 2) == 11.0
    assert seconds_left([done(fast, 2.0)], [], 1) is None


def test_a_picture_of_few_marks_is_finite() -> None:
    for marks in ([Mark(1.0, 0.5, None)], [Mark(math.inf, 0.0, 0.1)], [Mark(1e-3, 1.0, 0.2), Mark(1e3, 0.0, None)]):
        picture = frontier({"m": marks})
        assert picture.count('r="4"') == len(marks)
        assert "nan" not in picture
        assert "inf" not in picture
