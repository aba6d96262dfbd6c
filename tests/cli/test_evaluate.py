"""`private-distdd evaluate`: no claim that does not verify; other data and other labels are said."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import QUICK
from PIL import Image

from private_distdd import ModelSpec, Release, SyntheticDataset, TrainedNetwork, load_dataset
from private_distdd.cli import main
from private_distdd.protocol import accuracy


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
    assert "0.5" not in out.partition(";")[2].splitlines()[0]
    assert main(["evaluate", "run", "--epochs", "1", "--seeds", "1"]) == 0
    assert "epsilon 5.000 at delta 1e-05" in capsys.readouterr().out


def test_evaluating_on_other_data_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez("own.npz", x_train=x, y_train=np.arange(40) % 10, x_test=x, y_test=np.arange(40) % 10)
    assert main(["distill", *QUICK, "--target-epsilon", "5", "--output", "run"]) == 0
    assert main(["evaluate", "run", "--dataset", "own.npz", "--seeds", "1", "--epochs", "1"]) == 0
    assert "the release stands for 'digits', the test images are of 'own'" in capsys.readouterr().err
    assert main(["verify", "nowhere"]) == 2
    assert "no such folder" in capsys.readouterr().err


def with_teacher(source: str, folder: str, seed: int = 0) -> TrainedNetwork:
    """The release again, with soft labels that are the hard ones and with a classifier."""
    release = Release.load(source)
    data, spec = release.dataset, ModelSpec("mlp", {"width": 8})
    teacher = TrainedNetwork(spec, spec.build((1, 8, 8), 10, seed).state_dict(), data.info)
    soft = SyntheticDataset(data.images, data.labels, data.info, soft_labels=torch.eye(10)[data.labels])
    card = dict(release.card) | {"soft_labels": True, "teacher": spec.to_json()}
    Release(soft, card, release.ledgers, teacher=teacher).save(folder)
    return teacher


def test_soft_labels_and_the_teacher(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", *QUICK, "--target-epsilon", "5", "--output", "run"]) == 0
    teacher = with_teacher("run", "soft")
    assert main(["verify", "soft"]) == 0
    capsys.readouterr()
    quick = ["--epochs", "2", "--seeds", "1", "--model", "mlp"]
    for labels, said in (("hard", ""), ("soft", ", soft labels"), ("mixed", ", mixed labels, 70% soft")):
        assert main(["evaluate", "soft", *quick, "--labels", labels]) == 0
        assert f"% (mlp, 1 seed{said}); epsilon 5.000 at delta 1e-05" in capsys.readouterr().out
    assert main(["evaluate", "soft", "--teacher"]) == 0
    share = accuracy(teacher.build(), load_dataset("digits")[1])
    assert f"of digits: {share:.1%} (the release's classifier, mlp); epsilon 5.000" in capsys.readouterr().out
    assert main(["evaluate", "soft", "--teacher", "--device", "nowhere"]) == 2
    assert "device = 'nowhere'" in capsys.readouterr().err
    np.savez("own.npz", x_train=np.zeros((1, 9, 9)), y_train=[0], x_test=np.zeros((1, 9, 9)), y_test=[0])
    assert main(["evaluate", "soft", "--teacher", "--dataset", "own.npz"]) == 2
    assert "test set with shape (1, 9, 9)" in capsys.readouterr().err


def test_what_a_release_does_not_hold_is_not_evaluated(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", *QUICK, "--target-epsilon", "5", "--output", "run"]) == 0
    capsys.readouterr()
    for asked, said in (
        (["--labels", "soft"], "soft labels of a synthetic set that has none"),
        (["--labels", "mixed"], "soft labels of a synthetic set that has none"),
        (["--labels", "both"], "labels = 'both'"),
        (["--teacher"], "--teacher for a release without one"),
    ):
        assert main(["evaluate", "run", *asked]) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["evaluate", "run", "--teacher", "--labels", "soft"])
    assert "not allowed with" in capsys.readouterr().err


def test_a_folder_of_mixed_images_with_names(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shades = {"healthy": 40, "ill": 210}
    for part, name in itertools.product(("train", "test"), shades):
        (here / "scans" / part / name).mkdir(parents=True)
        for index, (mode, side) in enumerate((("L", 9), ("RGB", 12), ("RGBA", 20), ("L", 30))):
            Image.new("RGB", (side, side), (shades[name],) * 3).convert(mode).save(
                here / "scans" / part / name / f"{index}.png"
            )
    data = ["--dataset", "scans", "--size", "8x8", "--channels", "1"]
    asked = ["--classes", "healthy,ill", "--target-epsilon", "50", "--output", "run"]
    assert main(["distill", *QUICK, *data, *asked]) == 0
    assert "--classes healthy,ill --size 8x8 --channels 1" in capsys.readouterr().out
    assert main(["verify", "run"]) == 0
    release = Release.load("run")
    assert release.dataset.info.classes == ("healthy", "ill")
    assert "healthy, ill" in (here / "run" / "card.html").read_text()
    unnamed = dataclasses.replace(release.dataset.info, classes=())
    bare = SyntheticDataset(release.dataset.images, release.dataset.labels, unnamed).grid()
    named = release.dataset.grid()
    assert np.array_equal(named[:, -bare.shape[1] :], bare)
    before = named[:, : -bare.shape[1]]
    assert before.shape[1] > 40  # the names, in two rows
    assert (before[:48] == 0).any()
    assert (before[50:] == 0).any()
    capsys.readouterr()
    quick = ["--seeds", "1", "--epochs", "1", "--model", "mlp"]
    assert main(["evaluate", "run", *data, *quick]) == 0  # the card knows the classes
    out = capsys.readouterr().out
    assert "balanced accuracy" in out
    assert "\n  healthy  " in out
    assert main(["evaluate", "run", *data, "--classes", "ill,healthy", *quick]) == 2
    assert "test set with classes" in capsys.readouterr().err
    assert main(["evaluate", "run", "--dataset", "scans", "--size", "wide"]) == 2
    assert "--size wide" in capsys.readouterr().err
