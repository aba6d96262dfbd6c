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
from torch import nn

from private_distdd import FedAvg, ImageDataset, Privacy, dirichlet_split, load_dataset
from private_distdd.privacy.accountants import epsilon
from private_distdd.privacy.events import SampledGaussian

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def examples() -> Iterator[Any]:
    """Imports a module of the examples, as a program beside it does."""
    sys.path.insert(0, str(EXAMPLES))
    yield importlib.import_module
    sys.path.remove(str(EXAMPLES))


@pytest.fixture(scope="module")
def study(examples: Any) -> Any:
    return examples("use_cases.study")


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


def trials_of(study: Any, *scores: tuple[float, float]) -> list[Any]:
    """A trial a score (on S, by FedAvg): 1 s on S; 3 s and 100 bytes by FedAvg, and k more in trial k."""
    return [study.Trial({"k": k}, s, 1.0, f, 3.0 + k, 100 + k, nn.Identity()) for k, (s, f) in enumerate(scores)]


def test_a_report_says_what_its_trials_say(study: Any, tmp_path: Path) -> None:
    trials = trials_of(study, (0.5, 0.9), (0.6, 0.8), (0.7, 0.7))
    study.report(trials, (10.0, 250), {"winner": 0.8}, tmp_path / "r.json", {"once": 1.0})
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["rank_correlation"] == pytest.approx(-1)
    # S and one FedAvg with its winner, which is the last trial: 250 + 102 bytes, 10 + 5 s; then 1 s, or 101 and 4 s.
    assert list(found["costs"]["bytes"].values()) == [352, 0, 101]
    assert list(found["costs"]["seconds"].values()) == [15, 1, 4]
    assert found["cheaper_from_trials"] == {"bytes": 4, "seconds": 6}
    assert found["epsilon_of_each_client"] == {"once": 1.0}
    assert [trial["k"] for trial in (own["knobs"] for own in found["trials"])] == [0, 1, 2]
    assert study.best(trials, "by_fedavg") is trials[0]


def test_no_setting_is_tried_twice(study: Any) -> None:
    pytest.importorskip("optuna")
    asked: list[str] = []
    scored: list[str] = []

    def suggest(trial: Any) -> dict[str, Any]:
        asked.append(trial.suggest_categorical("letter", list("abcd")))
        return {"letter": asked[-1]}

    def score(knobs: dict[str, Any]) -> Any:
        scored.append(knobs["letter"])
        return study.Trial(knobs, float(ord(knobs["letter"])), 1.0, 0.5, 1.0, 1, nn.Identity())

    assert [trial.knobs["letter"] for trial in study.search(suggest, score, 4)] == scored
    assert sorted(scored) == list("abcd")
    assert len(asked) > 4  # the sampler came back to one
    assert len(study.search(suggest, score, 5)) == 4  # there are no others


def test_ranks_that_say_nothing_are_not_reported(study: Any) -> None:
    assert study.rank_correlation(trials_of(study, (0.1, 0.2), (0.3, 0.4), (0.2, 0.3))) == pytest.approx(1)
    assert study.rank_correlation(trials_of(study, (0.1, 0.2), (0.3, 0.4))) is None
    assert study.rank_correlation(trials_of(study, (0.1, 0.2), (0.1, 0.4), (0.1, 0.3))) is None  # neither a warning


@pytest.mark.parametrize(
    ("given", "message"),
    [(["--trials", "0"], "1 or more"), (["--output", "no/such/r.json"], "no such folder"), ([], "pip install")],
)
def test_what_would_fail_in_the_end_is_refused_at_once(
    study: Any, given: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["example", *given])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # as where Optuna is not
    with pytest.raises(SystemExit):
        study.arguments("", "example")
    assert message in capsys.readouterr().err


def test_the_bill_adds_up_every_step_of_every_trial(examples: Any) -> None:
    spent = examples("search_architecture").spent
    train, _ = load_dataset("digits")
    few = ImageDataset(train.images[:60], train.labels[:60], train.info)
    clients = dirichlet_split(few, num_clients=2, alpha=100.0, seed=0)
    privacy = Privacy(noise_multiplier=2.0, delta=1e-5, sample_rate=0.2, divisor=6.0)
    method = FedAvg(rounds=1, local_steps=2, model="mlp", model_args={"width": 4}, privacy=privacy)
    for runs in (1, 2):
        release = method.fit(clients)
        assert release.teacher is not None
        steps = SampledGaussian(2.0, 0.2, count=2 * runs)  # every local step of every trial
        assert spent(clients, 1e-5) == pytest.approx(epsilon([steps], 1e-5, "prv"), rel=1e-3)
