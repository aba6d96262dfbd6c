"""The use cases' arithmetic: when S costs less, how trials are ranked, and whose bill is whose."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from private_distdd import load_dataset

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def study() -> Iterator[Any]:
    sys.path.insert(0, str(EXAMPLES))
    yield importlib.import_module("use_cases.study")
    sys.path.remove(str(EXAMPLES))


@given(st.floats(0, 1e6), st.floats(0, 1e3), st.floats(1e-3, 1e3))
def test_the_crossing_is_the_first_number_of_trials_of_which_s_costs_less(
    study: Any, once: float, on_s: float, by_fedavg: float
) -> None:
    count = study.crossing(once, on_s, by_fedavg)
    if by_fedavg <= on_s:
        assert count is None
        return

    def saved(trials: int) -> float:
        return trials * by_fedavg - (once + trials * on_s)

    slack = 1e-9 * (1 + once)
    assert saved(count) > -slack
    assert count == 1 or saved(count - 1) <= slack


def test_the_server_s_images_are_nobody_else_s(study: Any) -> None:
    train, _ = load_dataset("digits")
    shared, held = study.parts(train)
    assert len(shared) + len(held) == len(train)
    rows = [{tuple(image.flatten().tolist()) for image in part.images} for part in (shared, held)]
    assert rows[0].isdisjoint(rows[1])
    assert set(held.labels.tolist()) == set(range(10))


def test_a_report_says_what_its_trials_say(study: Any, tmp_path: Path) -> None:
    trials = [
        study.Trial({"rate": 0.1 * k}, 0.5 + 0.1 * k, 0.9 - 0.1 * k, 1.0, 3.0, 100)
        for k in range(4)
    ]  # fmt: skip
    study.report(trials, (10.0, 250), {"winner": 0.8}, tmp_path / "r.json", epsilon=1.0)
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["rank_correlation"] == pytest.approx(-1)
    assert found["cheaper_from_trials"] == {"bytes": 4, "seconds": 7}  # 250 + 100 < 400; 10 + 3 + 7 < 21
    assert found["epsilon"] == 1.0
    assert len(found["trials"]) == 4
    study.report(trials[:2], (10.0, 250), {}, tmp_path / "two.json")
    assert json.loads((tmp_path / "two.json").read_text())["rank_correlation"] is None  # two say nothing
