"""The command line as a person uses it: words out, exit codes, nothing overwritten."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from private_distdd import Release
from private_distdd.cli import main

QUICK = ["--rounds", "2", "--num-clients", "3", "--set", "matching_steps=2", "--set", 'model_args={"width":8}']


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_distill_evaluate_verify(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", *QUICK, "--target-epsilon", "5", "--output", "run"]) == 0
    said = capsys.readouterr().out
    assert "epsilon 5.000 at delta 1e-05 a client" in said
    assert "client-00, client-01, client-02: claim 5.396 by RDP" in said
    assert "by RDP, 5.000 by PRV; spent" in said
    assert set(Release.load("run").epsilon) == {"client-00", "client-01", "client-02"}
    assert main(["verify", "run"]) == 0
    verified = capsys.readouterr().out
    assert "checks out" in verified
    assert "the claim: epsilon 5.000 at delta 1e-05 a client" in verified
    digest = hashlib.sha256(Path("run/manifest.json").read_bytes()).hexdigest()
    assert digest in verified
    assert digest in said
    evaluation = ["evaluate", "run", "--model-args", '{"width":8}', "--seeds", "2", "--epochs", "2"]
    assert main(evaluation) == 0
    assert "445 real test images of digits" in capsys.readouterr().out
    card = Path("run/card.json")
    card.write_text(card.read_text().replace('"ipc": 10', '"ipc": 11'))
    assert main(["verify", "run"]) == 1
    assert "FAILED card.json was changed" in capsys.readouterr().out
    assert main(evaluation) == 2


def test_not_private_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", *QUICK, "--output", "run"]) == 0
    captured = capsys.readouterr()
    assert "NOT PRIVATE" in captured.err
    assert "NOT PRIVATE" in captured.out
    assert not Release.load("run").private
    assert main(["verify", "run"]) == 0
    assert "NOT PRIVATE: no guarantee" in capsys.readouterr().out


def test_npz_and_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez("data.npz", x_train=x, y_train=np.arange(40) % 2, x_test=x[:4], y_test=np.arange(4) % 2)
    for part in ("train", "test"):
        for index in range(12):
            folder = Path("images", part, "ab"[index % 2])
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(x[index]).save(folder / f"{index}.png")
    for source in ("data.npz", "images"):
        output = f"run-{source}"
        distill = ["distill", "--dataset", source, *QUICK, "--target-epsilon", "5", "--output", output]
        assert main(distill) == 2  # the class list of private data is no public constant
        assert "--num-classes" in capsys.readouterr().err
        classes = ["--num-classes", "2"] if source.endswith(".npz") else ["--classes", "b,a,c"]
        assert main([*distill, *classes]) == 0
        assert Release.load(output).dataset.info.num_classes == (2 if source.endswith(".npz") else 3)
        classes = classes if source == "images" else []
        assert main(["evaluate", output, "--dataset", source, *classes, "--epochs", "1", "--seeds", "1"]) == 0
    assert (
        main(["distill", "--dataset", "images", *QUICK, "--output", "open"]) == 0
    )  # without privacy it may be counted


def test_evaluate_does_not_print_a_claim_that_does_not_verify(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", *QUICK, "--target-epsilon", "5", "--output", "run"]) == 0
    release = Release.load("run")
    card = json.loads(json.dumps(release.card))
    for bill in card["clients"].values():
        bill["claim"]["epsilon"] = bill["claim"]["prv"] = bill["claim"]["rdp"] = 0.5
    Release(release.dataset, card, release.ledgers).save("forged")
    capsys.readouterr()
    assert main(["evaluate", "forged", "--epochs", "1", "--seeds", "1"]) == 0
    out = capsys.readouterr().out
    assert "NOT VERIFIED" in out or "does not verify" in out
    assert "0.5" not in out.partition(";")[2]
    assert main(["evaluate", "run", "--epochs", "1", "--seeds", "1"]) == 0
    assert "epsilon 5.000 at delta 1e-05" in capsys.readouterr().out


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
        (["--output", "/proc/nowhere/run"], "--output /proc/nowhere/run"),
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


def test_an_existing_folder_is_refused_before_the_work(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("run").mkdir()
    assert main(["distill", *QUICK, "--output", "run"]) == 2
    assert "run exists" in capsys.readouterr().err


def test_plan_prints_a_table_and_a_curve(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--target-epsilon", "8", "--rounds", "20"]) == 0
    out = capsys.readouterr().out
    assert "epsilon 8.000 at delta 1e-05" in out
    assert "pays 20 queries" in out
    assert "█" in out


def test_evaluating_on_other_data_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez("own.npz", x_train=x, y_train=np.arange(40) % 10, x_test=x, y_test=np.arange(40) % 10)
    assert main(["distill", *QUICK, "--target-epsilon", "5", "--output", "run"]) == 0
    assert main(["evaluate", "run", "--dataset", "own.npz", "--seeds", "1", "--epochs", "1"]) == 0
    assert "S stands for 'digits', the test images are of 'own'" in capsys.readouterr().err
    assert main(["verify", "nowhere"]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("demo", "distill", "evaluate", "plan", "verify"))


def test_ctrl_c_leaves_a_usable_release_with_a_true_bill(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "private_distdd.cli", "distill", "--num-clients", "3", "--rounds", "2000"]
    command += ["--noise-multiplier", "50", "--set", "matching_steps=1", "--set", 'model_args={"width":4}']
    process = subprocess.Popen(
        [*command, "--checkpoint", "state", "--output", "run"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A test run that a script put into the background has it ignored, and so would its children.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    with process:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("state/memory-*")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)  # until the first round is done
        os.kill(process.pid, signal.SIGINT)
        try:
            out, _ = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 0, out
    assert "stopped early, after" in out
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert card["progress"]["stopped_early"]
    assert 0 < card["progress"]["rounds_done"] < 2000
    release = Release.load(tmp_path / "run")
    release.verify()
    assert release.card["clients"]["client-00"]["claim"]["epsilon"] == max(release.epsilon.values())
    assert torch.isfinite(release.dataset.images).all()


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
