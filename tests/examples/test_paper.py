"""The paper's evaluation: it varies what the paper's figures vary, and what it calls the paper's figures are those."""

from __future__ import annotations

import functools
import importlib
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from private_distdd import DatasetInfo, ImageDataset, NotPrivateWarning
from private_distdd.experiments import build
from private_distdd.experiments.cell import flat
from private_distdd.experiments.config import Sweep

ROOT = Path(__file__).parents[2]
TEXT = ROOT.parent / "shared" / "papers" / "distdd-paper.txt"


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`examples.paper`, from this repository (an installed package may be called `examples`, too)."""
    for name in [name for name in sys.modules if name.split(".")[0] == "examples"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(ROOT))
    yield lambda name: importlib.import_module(f"examples.paper.{name}")
    for name in [name for name in sys.modules if name.split(".")[0] == "examples"]:
        del sys.modules[name]


def sizes(package: Any) -> dict[str, Any]:
    made = package("sizes")
    return {"quick": made.quick(), "cores": made.cores("data"), "paper": made.paper("data")}


@pytest.mark.parametrize("size", ["quick", "cores", "paper"])
def test_every_line_is_a_sweep_of_its_knob(package: Any, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    load = build.load_dataset

    @functools.wraps(load)
    def blank(name_or_path: str, **knobs: Any) -> tuple[ImageDataset, ImageDataset]:
        """Of the right shape: what a query may cost hangs on it, and real data are not on every machine."""
        if name_or_path == "digits":
            return load(name_or_path, **knobs)
        info = DatasetInfo(name_or_path, 10, {"cifar10": (3, 32, 32)}.get(name_or_path, (1, 28, 28)))
        blanks = ImageDataset(torch.zeros(1000, *info.shape), torch.arange(1000) % 10, info)
        return blanks, blanks

    monkeypatch.setattr(build, "load_dataset", blank)
    monkeypatch.setattr(build, "_data", build._data.__wrapped__)  # without its cache, which would outlive the blanks
    for name, experiment in package("experiments").experiments(sizes(package)[size]).items():
        varied = set()
        for config in experiment.lines.values():
            cells = Sweep.of(config).cells
            varied |= {flat(cell.settings).get(experiment.knob) for cell in cells}
            build.validate(cells[0])
        assert experiment.knob == "" or len(varied - {None}) > 1, name


def test_the_papers_own_figures_are_those_of_its_table_1(package: Any) -> None:
    report = package("report")
    assert report.published("DistDD (IPC=10)", "MNIST", 0.1) == 82.3
    assert report.published("GM (IPC=100)", "CIFAR", 100.0) == 80.7
    assert report.published("DistDD (IPC=1)", "digits", 1.0) is None
    if not TEXT.exists():
        pytest.skip("the paper's text is not part of a clone: it lies in ../shared/papers")
    rows = {line.split("\t")[0]: line.split("\t")[1:] for line in TEXT.read_text(encoding="utf-8").splitlines()}
    for d, dataset in enumerate(("MNIST", "FashionMNIST", "CIFAR")):
        for row in ("Whole Dataset", "GM (IPC=100)"):
            assert report.published(row, dataset, 1.0) == float(
                rows[row][3 * d] if len(rows[row]) > 3 else rows[row][d]
            )
        for row in ("FedAvg", "FedProx", *(f"DistDD (IPC={ipc})" for ipc in (10, 50, 100))):
            theirs = [report.published(row, dataset, alpha) for alpha in (1.0, 0.5, 0.1)]
            assert theirs == [float(figure) for figure in rows[row][3 * d : 3 * d + 3]]


def test_a_run_gives_a_table_and_a_picture_and_goes_on_where_it_was(
    package: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, main = package("experiments"), package("__main__")
    every = made.experiments(sizes(package)["quick"])
    small = {"rounds": 1, "matching_steps": 1, "network_steps": 0, "model_args": {"width": 4}, "ipc": 1}

    def shrunk(name: str, *labels: str) -> Any:
        lines = {label: dict(every[name].lines[label]) for label in labels}
        for config in lines.values():
            own = {knob: value for knob, value in small.items() if config["method"]["name"] == "distdd"}
            config["method"] = config["method"] | (own or {"rounds": 1, "local_steps": 1, "model_args": {"width": 4}})
            config["evaluation"] = {"on": "test", "networks": 1, "epochs": 1, "model_args": {"width": 4}}
            config["split"] = config["split"] | {"num_clients": 2}
        return made.Experiment(every[name].title, every[name].knob, every[name].axis, lines, logarithmic=name != "fig2")

    figure = shrunk("fig14", "DistDD with noise", "DistDD without")
    with pytest.warns(NotPrivateWarning):
        assert not main.run("fig14", figure, tmp_path, "", 1)
    with pytest.warns(NotPrivateWarning):
        assert not main.run("table1", shrunk("table1", "FedAvg on digits"), tmp_path, "", 1)
    picture = (tmp_path / "fig14.svg").read_text()
    ET.fromstring(picture)  # noqa: S314 - our own
    assert picture.count("<circle") == 3 + 2 + 2  # a level is drawn at both ends; the key
    assert ">100</text>" in picture
    assert "| digits | FedAvg | 0.1 |" in (tmp_path / "table1.md").read_text()
    assert "nothing to show" not in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("cells/*.json")}
    main.run("fig14", figure, tmp_path, "", 1)  # nothing is run, and nothing warned of
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("cells/*.json")} == before
