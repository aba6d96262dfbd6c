"""Options and knobs of `private-distdd distill`: each bad one is one clear error."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import pytest
from commands import QUICK

from private_distdd import CollabDM, DistDD, Release
from private_distdd.cli import main
from private_distdd.cli.knobs import given_knobs
from private_distdd.cli.main import _parser
from private_distdd.errors import ConfigurationError


def parsed(*arguments: str) -> argparse.Namespace:
    return _parser().parse_args(["distill", *arguments])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ipc", "0"], "ipc = 0"),
        (["--rounds", "-1"], "rounds = -1"),
        (["--target-epsilon", "0"], "target_epsilon = 0"),
        (["--target-epsilon", "1", "--noise-multiplier", "1"], "exactly one of the two"),
        (["--noise-multiplier", "-1"], "noise_multiplier = -1"),
        (["--target-epsilon", "1", "--delta", "1"], "delta = 1"),
        (["--target-epsilon", "1", "--sample-rate", "1.5"], "sample_rate = 1.5"),
        (["--target-epsilon", "1", "--max-grad-norm", "0"], "max_grad_norm = 0"),
        (["--participation", "0.01"], "participation = 0.01"),
        (["--aggregator", "median", "--num-clients", "2"], "median of 2 clients"),
        (["--aggregator", "trimmed_mean", "--num-clients", "3"], "trimmed_mean with share = 0.1 and 3 clients"),
        (["--aggregator", "mode"], "aggregator = 'mode'"),
        (["--aggregator", "trimmed_mean(part=0.2)"], "aggregator = 'trimmed_mean(part=0.2)'"),
        (["--set", "quorum=2"], "quorum = 2"),
        (["--set", "deadline=0"], "deadline = 0"),
        (["--dataset", "nowhere"], "'nowhere'"),
        (["--set", "nonsense=1"], "--set nonsense=1"),
        (["--set", "ipc=5"], "--set ipc=5"),
        (["--set", "batch_per_class=5", "--target-epsilon", "1"], "batch_per_class = 5"),
        (["--set", "initialization=real", "--target-epsilon", "1"], "initialization = 'real'"),
        (["--model", "perceptron"], "perceptron"),
        (["--sample-rate", "0.1", "--max-grad-norm", "3"], "--sample-rate, --max-grad-norm without --target-epsilon"),
        (["--budget-epsilon", "3"], "--budget-epsilon without --target-epsilon"),
        (["--target-epsilon", "9", "--budget-epsilon", "3", *QUICK], "no client agrees"),
        (["--device", "tpu"], "device = 'tpu'"),
        (["--threads", "0"], "--threads 0"),
        (["--output", "/proc/nowhere/run"], "/proc/nowhere/run cannot be made"),
    ],
)
def test_bad_arguments_are_one_clear_error(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["distill", "--output", "run", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "allowed:" in error
    assert "Traceback" not in error
    assert not any(here.glob("run*"))


def test_an_unknown_method_is_refused_as_every_unknown_choice(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["distill", *QUICK, "--method", "distdm", "--output", "run"])
    assert stop.value.code == 2
    assert "argument --method: invalid choice: 'distdm' (choose from 'collabdm', 'distdd'" in capsys.readouterr().err
    assert not any(here.iterdir())


def test_what_was_not_given_keeps_the_defaults_of_the_method(here: Path) -> None:
    """So what the help says of them must be what they are."""
    options = ["--dirichlet", "inf", "--output", "run"]
    for make_method in (DistDD, CollabDM):
        given = parsed("--method", make_method.name.lower(), *options)
        assert given_knobs(given, make_method) == {}
        made = make_method()
        assert (made.ipc, made.model, str(made.aggregator)) == (10, "convnet", "mean")
    assert (DistDD().rounds, DistDD().participation) == (100, 1.0)


def test_given_knobs_are_the_methods_own() -> None:
    own = ["--ipc", "3", "--model", "mlp", "--aggregator", "median", "--rounds", "4", "--participation", "0.5"]
    given = parsed(
        *own, "--set", "quorum=0.5", "--set", "deadline=3", "--set", "distance=layer_cosine", "--output", "run"
    )
    assert given_knobs(given, DistDD) == {
        "ipc": 3,
        "model": "mlp",
        "aggregator": "median",
        "rounds": 4,
        "participation": 0.5,
        "quorum": 0.5,
        "deadline": 3,
        "distance": "layer_cosine",
    }


@pytest.mark.parametrize("name", ["ipc", "rounds", "participation", "model", "aggregator"])
def test_a_given_option_that_the_method_lacks_is_refused(name: str) -> None:
    @dataclass(frozen=True)
    class Bare:
        privacy: None = None

    value = "1" if name in ("ipc", "rounds", "participation") else "mlp"
    with pytest.raises(ConfigurationError, match=f"--{name} {value}.* with --method distdd; allowed: no such option"):
        given_knobs(parsed(f"--{name}", value, "--output", "run"), Bare)
    with pytest.raises(ConfigurationError, match="--set privacy=1"):
        given_knobs(parsed("--set", "privacy=1", "--output", "run"), Bare)
    assert given_knobs(parsed("--output", "run"), Bare) == {}


@pytest.mark.parametrize(
    ("aggregator", "kept"),
    [("trimmed_mean(share=0.4)", "trimmed_mean(share=0.4)"), ("median", "median")],
)
def test_an_aggregator_with_its_parameters(here: Path, aggregator: str, kept: str) -> None:
    assert main(["distill", *QUICK, "--aggregator", aggregator, "--output", "run"]) == 0
    assert Release.load("run").card["method"]["settings"]["aggregator"] == kept
