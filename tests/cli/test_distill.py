"""`private-distdd distill`: words out, exit codes, nothing overwritten, a release after Ctrl-C."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import QUICK
from PIL import Image

from private_distdd import Release
from private_distdd.cli import main


def test_distill_evaluate_verify(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", *QUICK, "--target-epsilon", "5", "--output", "run"]) == 0
    said, told = capsys.readouterr()
    assert re.search(r"^round \d+/\d+, 0:0\d:\d\d, loss [0-9.]+  epsilon so far 5.00 of 5.00", told, re.MULTILINE)
    assert "epsilon 5.000 at delta 1e-05 a client" in said
    assert "client-00, client-01, client-02: claim 5.000, spent 5.000" in said
    assert "RDP" not in said
    assert set(Release.load("run").epsilon) == {"client-00", "client-01", "client-02"}
    assert main(["verify", "run"]) == 0
    verified = capsys.readouterr().out
    assert "checks out" in verified
    assert "the claim: epsilon 5.000 at delta 1e-05 a client: limited privacy" in verified
    assert "Whatever comes out is at most 149 times as likely with an example as without it" in " ".join(
        verified.split()
    )
    digest = hashlib.sha256(Path("run/manifest.json").read_bytes()).hexdigest()
    assert digest in verified
    assert digest in said
    evaluation = ["evaluate", "run", "--model-args", '{"width":8}', "--seeds", "2", "--epochs", "2"]
    assert main(evaluation) == 0
    found = capsys.readouterr()
    assert "445 real test images of digits" in found.out
    assert "epoch 4/4, " in found.err
    assert main([*evaluation, "--quiet"]) == 0
    assert capsys.readouterr() == (found.out, "")
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


def test_an_existing_folder_is_refused_before_the_work(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("run").mkdir()
    assert main(["distill", *QUICK, "--output", "run"]) == 2
    assert "run exists" in capsys.readouterr().err


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
    assert process.returncode == 130, out
    assert "stopped early, after" in out
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert card["progress"]["stopped_early"]
    assert 0 < card["progress"]["rounds_done"] < 2000
    release = Release.load(tmp_path / "run")
    release.verify()
    assert release.card["clients"]["client-00"]["claim"]["epsilon"] == max(release.epsilon.values())
    assert torch.isfinite(release.dataset.images).all()
