"""A configuration becomes cells: lists are swept, ids are stable, and what is no configuration is refused."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from private_distdd.errors import ConfigurationError
from private_distdd.experiments.build import build, validate
from private_distdd.experiments.cell import SECTIONS, Cell, flat
from private_distdd.experiments.config import Sweep

ROOT = Path(__file__).parents[2]
Config = dict[str, Any]


def test_a_grid_is_the_product_and_repeated_sections_are_a_list() -> None:
    config = {
        "data": {"dataset": "digits"},
        "split": {"num_clients": [2, 3]},
        "method": [{"name": "distdd", "rounds": [1, 2]}, {"name": "collabdm"}],
        "privacy": [{"target_epsilon": [1, 8]}, {}],
        "seeds": range(2),
    }
    cells = Sweep.of(config).cells
    assert len(cells) == len({cell.id for cell in cells}) == 2 * (2 + 1) * (2 + 1) * 2
    assert [cell.settings["seed"] for cell in cells] == [0] * 18 + [1] * 18  # a seed after the other
    assert {cell.settings["method"].get("rounds") for cell in cells} == {1, 2, None}
    assert sum(not cell.settings["privacy"] for cell in cells) == 12


def test_a_method_has_knobs_of_privacy_of_its_own() -> None:
    own = {"sample_rate": 0.5, "delta": 1e-4}
    config = {
        "data": {"dataset": "digits"},
        "split": {},
        "method": [{"name": "distdd", "privacy": own}, {"name": "collabdm"}],
        "privacy": [{"target_epsilon": [1, 8], "delta": 1e-5}, {}],
    }
    cells = Sweep.of(config).cells
    assert all("privacy" not in cell.settings["method"] for cell in cells)
    assert [cell.settings["privacy"] for cell in cells] == [
        {"target_epsilon": 1, **own},
        {"target_epsilon": 8, **own},
        {},  # the run without privacy stays one
        {"target_epsilon": 1, "delta": 1e-5},
        {"target_epsilon": 8, "delta": 1e-5},
        {},
    ]


def test_a_list_in_a_list_is_a_value() -> None:
    config = {"data": {"dataset": "x", "classes": [["a", "b"]]}, "split": {}, "method": {"name": "distdd"}}
    (cell,) = Sweep.of(config).cells
    assert cell.settings["data"]["classes"] == ["a", "b"]


def cell_of(**sections: Any) -> Cell:
    return Cell({**{name: {} for name in SECTIONS}, "seed": 0, **sections})


def test_ids_do_not_change_between_versions() -> None:
    # Whoever changes how ids are made runs the cells of every folder again.
    assert cell_of(split={"num_clients": 3, "alpha": math.inf}).id == "0049c37e634dcaec"


VALUES = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text(max_size=3)


@given(st.dictionaries(st.text(max_size=3), VALUES, max_size=4))
def test_ids_follow_from_the_settings_alone(knobs: dict[str, Any]) -> None:
    turned = {name: float(v) if type(v) is int else v for name, v in reversed(knobs.items())}
    assert cell_of(method=knobs).id == cell_of(method=turned).id
    assert cell_of(method=knobs).id != cell_of(privacy={"x": 0}, method=knobs).id
    assert cell_of(method=knobs).id != cell_of(method=knobs, seed=1).id
    for name in knobs:
        assert cell_of(method=knobs).id != cell_of(method=knobs | {name: "another"}).id


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"privacy": None, "privcy": {}}, "'privcy' in a sweep"),
        ({"method": None}, "a sweep without 'method'"),
        ({"split": 3}, "split = 3"),
        ({"split": {"num_clients": []}}, "split.num_clients = []"),
        ({"split": {"num_clients": [2, 2.0]}}, "twice the cell data.dataset = wine"),
        ({"split": {"num_clients": 2, "alpha": {1, 2}}}, "a number, a text"),
        ({"seeds": []}, "seeds = []"),
        ({"method": {"name": "distdd", "privacy": 1}}, "method.privacy = 1"),
        ({"method": {"name": "distdd", "privacy": {"sample_rate": 0.5}}, "privacy": None}, "without a section"),
    ],
)
def test_what_is_no_configuration_is_refused(change: Config, said: str, small: Config) -> None:
    config = {name: value for name, value in {**small, **change}.items() if value is not None}
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        Sweep.of(config)


@pytest.mark.parametrize(
    ("section", "change", "said"),
    [
        ("data", {"dataset": "nowhere", "num_classes": 3}, "'nowhere'"),
        ("data", {"dataset": None}, "[data] without 'dataset'"),
        ("data", {"dataset": "own.npz"}, "own.npz with privacy and without its classes"),
        ("data", {"rot": "x"}, "data.rot"),
        ("split", {"num_clients": None}, "[split] without 'num_clients'"),
        ("split", {"alpha": -1}, "alpha = -1"),
        ("split", {"alpha": 1, "shards_per_client": 2}, "split.alpha"),
        ("mislabel", {"pattern": "pair"}, "[mislabel] without 'fraction'"),
        ("mislabel", {"fraction": 2}, "fraction = 2"),
        ("method", {"name": "distd"}, "method 'distd'"),
        ("method", {"seed": 3}, "method.seed"),
        ("method", {"rounds": 0}, "rounds = 0"),
        ("method", {"aggregator": "median"}, "median of 2 clients"),
        ("method", {"model": "convnet"}, "convnet"),
        ("method", {"device": "nowhere"}, "device = 'nowhere'"),
        ("privacy", {"target_epsilon": 1}, "exactly one of the two"),
        ("privacy", {"epsilon": 1}, "privacy.epsilon"),
        ("evaluation", {"on": "validation"}, "evaluation.on = 'validation'"),
        ("evaluation", {"networks": 0}, "evaluation.networks = 0"),
        ("evaluation", {"epochs": 0}, "epochs = 0"),
        ("evaluation", {"epochs": "many"}, "epochs = 'many'"),
        ("evaluation", {"labels": "both"}, "labels = 'both'"),
        ("evaluation", {"model": "convnet"}, "convnet"),
        ("evaluation", {"seeds": 1}, "evaluation.seeds"),
        ("data", {"limit": 0}, "limit = 0"),
        ("data", {"limit": 1000}, "allowed: at most 135 examples"),
        ("split", {"alone": 1}, "alone = 1"),
    ],
)
def test_each_bad_knob_is_found_without_a_run(section: str, change: Config, said: str, small: Config) -> None:
    changed = {**small.get(section, {}), **change}
    small[section] = {name: value for name, value in changed.items() if value is not None}
    (cell,) = Sweep.of(small).cells
    with pytest.raises(ConfigurationError, match=re.escape(said)) as caught:
        validate(cell)
    assert ", in the cell " in str(caught.value)


def test_no_client_holds_what_is_held_out(small: Config) -> None:
    (cell,) = Sweep.of(small).cells
    built = build(cell)
    rows = {tuple(row.tolist()) for client in built.federations[0] for row in client._images}
    assert len(rows) > 50
    assert rows.isdisjoint({tuple(row.tolist()) for row in built.scored.images})
    (final,) = Sweep.of(small | {"evaluation": small["evaluation"] | {"on": "test"}}).cells
    assert len(build(final).scored) > len(built.scored)
    validate(final)


def test_wrong_labels_and_shards_are_what_their_sections_say(small: Config) -> None:
    right, wrong = (
        build(Sweep.of({**small, "split": {"num_clients": 2, "shards_per_client": 1}, **more}).cells[0])
        for more in ({}, {"mislabel": {"fraction": 1.0}})
    )
    labels = [[client._labels for client in built.federations[0]] for built in (right, wrong)]
    assert all(((before + 1) % 3 == after).all() for before, after in zip(*labels, strict=True))


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.toml")), ids=lambda path: path.stem)
def test_the_repository_s_sweeps_are_sweeps(path: Path) -> None:
    cells = Sweep.read(path).cells
    assert len(cells) > 3
    first = dict(cells[0].settings)
    if "root" in first["data"]:  # real data, which not every machine has; all else is the same with what each has
        first["data"] = {"dataset": "digits"}
    validate(Cell(first))


def test_a_part_of_the_data_is_the_same_part_for_all(small: Config) -> None:
    small["data"]["limit"] = 60

    def part(seed: int, **more: Any) -> set[tuple[float, ...]]:
        (cell,) = Sweep.of({**small, **more, "seeds": seed}).cells
        built = build(cell)
        held = [client._images for client in built.federations[0]]
        return {tuple(row.tolist()) for rows in (*held, built.scored.images) for row in rows}

    assert len(part(0)) == 60
    assert part(0) == part(1)
    on_test = build(Sweep.of({**small, "evaluation": small["evaluation"] | {"on": "test"}}).cells[0])
    assert sum(len(client._images) for client in on_test.federations[0]) == 60
    assert len(on_test.scored) == 43  # the whole test set of the wines


def test_the_docs_example_has_as_many_cells_as_they_say(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
    found = re.search(r"```toml\n(.*?)```", text, re.DOTALL)
    assert found is not None
    (tmp_path / "sweep.toml").write_text(found[1])
    cells = Sweep.read(tmp_path / "sweep.toml").cells
    assert f"{len(cells)} cells" in text
    for cell in (cells[0], cells[-1]):
        validate(cell)


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("seeds = [0")
    for name in ("broken.toml", "none.toml"):
        with pytest.raises(ConfigurationError, match=name):
            Sweep.read(tmp_path / name)


def test_flat_settings_name_their_sections(small: Config) -> None:
    (cell,) = Sweep.of(small).cells
    knobs = flat(cell.record)
    assert (knobs["method.name"], knobs["privacy.noise_multiplier"], knobs["seed"]) == ("distdd", 2, 0)
