"""`private-distdd audit --data`: an owner with a folder, from a run to a report, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from private_distdd import DistDD, ImageDataset, Privacy, Release, SyntheticDataset, dirichlet_split, load_dataset
from private_distdd.cli import main

Audit = Callable[..., int]


def write_images(folder: Path, data: ImageDataset) -> None:
    """FOLDER/CLASS/scan-0000.png, as a hospital may have them."""
    pixels = (data.info.denormalise(data.images) * 255).round().to(torch.uint8)
    for i, (image, label) in enumerate(zip(pixels, data.labels.tolist(), strict=True)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(folder / str(label) / f"scan-{i:04}.png")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mine/ (contributed), kept/ (held out), run/ (private) and leak/ (S holds examples of mine/)."""
    place = tmp_path_factory.mktemp("site")
    train, test = load_dataset("digits")
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:300]
    mine = ImageDataset(train.images[chosen], train.labels[chosen], train.info)
    write_images(place / "mine", mine)
    write_images(place / "kept", ImageDataset(test.images[:300], test.labels[:300], test.info))
    clients = dirichlet_split(mine, num_clients=2)
    privacy = Privacy(target_epsilon=8.0, delta=1e-5, sample_rate=0.2)
    method = DistDD(ipc=5, rounds=3, matching_steps=3, privacy=privacy, model="mlp", model_args={"width": 16}, seed=0)
    release = method.fit(clients)
    release.save(place / "run")
    copies = torch.cat([mine.images[mine.labels == label][:5] for label in range(10)])
    leak = SyntheticDataset(copies, torch.arange(10).repeat_interleave(5), mine.info)
    Release(leak, release.card, release.ledgers).save(place / "leak")
    return place


@pytest.fixture
def audit(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Audit:
    """audit(release, *options): the command, run in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda release, *options: main(["audit", str(site / release), "--quick", *options])


def test_a_private_release_is_not_accused(site: Path, audit: Audit, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit("run", "--data", str(site / "mine"), "--held-out", str(site / "kept")) == 0
    said = capsys.readouterr()
    assert "300 contributed examples, 300 held out; Not told apart" in said.out
    assert "the claim allows" in said.out
    assert "FOR THE OWNER OF THE DATA ALONE" in said.err
    assert "epoch 30/30, " in said.err
    assert Path("own-audit-001/own-audit.html").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in (site / "run").parent.iterdir()) == ["kept", "leak", "mine", "run"]


def test_a_planted_leak_is_flagged(site: Path, audit: Audit, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--data", str(site / "mine"), "--held-out", str(site / "kept"), "--json", "--output", "report")
    assert audit("leak", *options, "--quiet") == 1
    said = capsys.readouterr()
    assert "epoch" not in said.err
    found = json.loads(said.out)
    assert found == json.loads(Path("report/own-audit.json").read_text())
    assert found["exposes"] is True
    assert found["copies"] == {"members": 50, "held_out": 0}
    assert len(found["exposed"]) == 20
    first = found["exposed"][0]
    assert first["copied"] is True
    label, name = first["name"].split("/")
    pixels = np.asarray(Image.open(site / "mine" / label / name))
    synthetic = Release.load(site / "leak").dataset
    copied = synthetic.info.denormalise(synthetic.images[first["image"]])[0] * 255
    assert np.array_equal(pixels, copied.round().to(torch.uint8).numpy())
    assert "FOR THE OWNER" in found["private"]


def test_a_parted_data_set_holds_out_its_test_part(audit: Audit, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit("run", "--data", "digits", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["members"], found["held_out"], found["pairs"]) == (1352, 445, 445)
    assert found["exposed"][0]["name"].startswith("train ")


def test_the_parts_of_a_folder_are_told(site: Path, audit: Audit, capsys: pytest.CaptureFixture[str]) -> None:
    for part, own in (("train", "mine"), ("test", "kept")):
        Path("both").mkdir(exist_ok=True)
        Path("both", part).symlink_to(site / own)
    assert audit("leak", "--data", "both", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["members"], found["held_out"]) == (300, 300)
    assert found["exposed"][0]["name"].startswith("train/")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--data", "nowhere", "--held-out", "kept"), "error: data set 'nowhere'"),
        (("--data", "mine", "--held-out", "nowhere"), "error: data set 'nowhere'"),
        (("--data", "mine"), "Members can only be told from others"),
        (("--data", "mine", "--held-out", "mine"), "0 pairs of a contributed and a held-out example"),
        (("--data", "wine"), "error: rows of shape [13] in 'wine'; allowed: [1, 8, 8]"),
        (("--data", "mine", "--held-out", "kept", "--num-classes", "7"), "error: 7 classes in"),
        (("--data", "mine", "--held-out", "kept", "--size", "16"), "is [channels, height, width] = [1, 16, 16]"),
        (("--data", "mine", "--held-out", "few"), "error: 3 pairs"),
        (("--data", "mine", "--held-out", "kept", "--output", "run/report"), "a new folder outside the release"),
        (("--data", "mine", "--held-out", "kept", "--output", "mine"), "a new folder outside the release"),
        (("--data", "mine", "--held-out", "kept", "--label", "sex"), "It is for a file ending in .csv only"),
        (("--held-out", "kept"), "--held-out without --data"),
        (("--size", "8"), "--size without --data"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    options: tuple[str, ...],
    message: str,
    site: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(site)
    if "few" in options:
        test = load_dataset("digits")[1]
        write_images(site / "few", ImageDataset(test.images[:3], test.labels[:3], test.info))
    assert main(["audit", "run", *options]) == 2
    assert message in capsys.readouterr().err
    assert not list(site.glob("own-audit*"))


def test_a_release_that_does_not_verify_is_not_looked_at(
    site: Path, audit: Audit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "card.json").write_text("{}")
    assert main(["audit", str(broken), "--data", str(site / "mine"), "--held-out", str(site / "kept")]) == 2
    assert "cannot be read as a release" in capsys.readouterr().err
