"""Folders of images: their classes are what the caller says, and all images are alike."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from private_distdd.data.info import DatasetInfo
from private_distdd.data.load import load_dataset
from private_distdd.errors import DataError


def write_folder(path: Path, mode: str = "RGB") -> dict[tuple[str, str, int], np.ndarray]:
    """train has 3 images of "cat" and 2 of "ant", test one of "cat"; all 5 high and 4 wide."""
    rng = np.random.default_rng(0)
    pictures = {}
    for part, name, count in (("train", "cat", 3), ("train", "ant", 2), ("test", "cat", 1)):
        (path / part / name).mkdir(parents=True)
        for index in range(count):
            picture = rng.integers(0, 256, (5, 4, 3) if mode == "RGB" else (5, 4), dtype=np.uint8)
            Image.fromarray(picture).save(path / part / name / f"{index}.png")
            pictures[part, name, index] = picture
    (path / "train" / ".DS_Store").write_bytes(b"")
    return pictures


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_folder_round_trip(tmp_path: Path, mode: str, channels: int) -> None:
    pictures = write_folder(tmp_path / "pets", mode)
    train, test = load_dataset(f"{tmp_path}/pets/")
    assert train.info == DatasetInfo("pets", 2, (channels, 5, 4), classes=("ant", "cat"))
    assert train.labels.tolist() == [0, 0, 1, 1, 1]  # ant, then cat
    assert test.labels.tolist() == [1]
    pixels = train.info.denormalise(train.images).mul(255).round().numpy()
    assert (pixels[3] == pictures["train", "cat", 1].reshape(5, 4, channels).transpose(2, 0, 1)).all()


def test_a_folder_s_classes_are_what_the_caller_says(tmp_path: Path) -> None:
    """One image in a new class must not change the class list, and a class may be without images or folder."""
    write_folder(tmp_path / "pets")
    train, test = load_dataset(tmp_path / "pets", classes=["dog", "cat", "ant"])
    assert train.info.num_classes == 3
    assert train.labels.tolist() == [1, 1, 1, 2, 2]
    assert test.labels.tolist() == [1]
    (tmp_path / "pets" / "train" / "dog").mkdir()
    assert load_dataset(tmp_path / "pets", classes=["dog", "cat", "ant"])[0].info == train.info
    (tmp_path / "pets" / "train" / "newt").mkdir()
    with pytest.raises(DataError, match="'newt'"):
        load_dataset(tmp_path / "pets", classes=["dog", "cat", "ant"])
    with pytest.raises(DataError, match="'ant'"):  # numbered classes are folders named by their numbers
        load_dataset(tmp_path / "pets", num_classes=5)
    for part in ("train", "test"):
        for name, number in (("ant", "0"), ("cat", "3"), ("dog", "1")):
            if (tmp_path / "pets" / part / name).exists():
                (tmp_path / "pets" / part / name).rename(tmp_path / "pets" / part / number)
    (tmp_path / "pets" / "train" / "newt").rmdir()
    train, _ = load_dataset(tmp_path / "pets", num_classes=5)
    assert train.info.num_classes == 5
    assert train.labels.tolist() == [0, 0, 3, 3, 3]
    for wrong in (["cat"], ["cat", "cat"], ["cat", ""], ["cat", ".."], ["cat", "a/b"], "cat", ["cat", 3]):
        with pytest.raises(DataError, match="classes"):
            load_dataset(tmp_path / "pets", classes=wrong)  # type: ignore[arg-type]
    for arguments in ({"classes": ["a", "b"], "num_classes": 2}, {"num_classes": 1}, {"num_classes": 10**9}):
        with pytest.raises(DataError, match="classes"):
            load_dataset(tmp_path / "pets", **arguments)
    with pytest.raises(DataError, match="classes"):
        load_dataset("digits", classes=["a", "b"])


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    def refused(says: str) -> None:
        with pytest.raises(DataError, match=says):
            load_dataset(tmp_path)

    refused("train/CLASS/IMAGE")
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    refused("no image in")
    (tmp_path / "train").rmdir()
    (tmp_path / "test").rmdir()
    write_folder(tmp_path)
    odd = tmp_path / "train" / "cat" / "odd.png"
    Image.new("RGB", (4, 6)).save(odd)
    refused(r"odd.png' is \[channels, height, width\] = \[3, 6, 4\]")
    Image.new("L", (4, 5)).save(odd)
    refused(r"odd.png' is \[channels, height, width\] = \[1, 5, 4\]")
    Image.new("RGBA", (4, 5)).save(odd)
    refused("odd.png' has mode RGBA")
    odd.write_bytes(b"not a picture")
    refused("odd.png' cannot be read")
    odd.unlink()
    (tmp_path / "test" / "dog").mkdir()
    refused("class 'dog' is in test only")
    (tmp_path / "test" / "dog").rmdir()
    (tmp_path / "train" / "notes.txt").write_text("")
    refused("notes.txt' is a file")


def write_hospital(path: Path) -> None:
    """Pictures as they come: grey and coloured, with a palette, transparent, of three sizes."""
    for part, name in itertools.product(("train", "test"), ("healthy", "ill")):
        (path / part / name).mkdir(parents=True)
        for index, (mode, side) in enumerate((("L", 9), ("RGB", 9), ("P", 12), ("RGBA", 20))):
            shade = 204 if name == "ill" else 51  # of Pillow's palette, too
            Image.new("RGB", (side, side + 1), (shade, shade, shade)).convert(mode).save(
                path / part / name / f"{index}.png"
            )


@pytest.mark.parametrize("channels", [1, 3])
def test_mixed_images_are_brought_to_one_size_and_kind(tmp_path: Path, channels: int) -> None:
    write_hospital(tmp_path / "scans")
    with pytest.raises(DataError, match="Say size= and channels="):
        load_dataset(tmp_path / "scans")
    with pytest.raises(DataError, match="Say size= and channels="):
        load_dataset(tmp_path / "scans", channels=1)
    train, test = load_dataset(tmp_path / "scans", channels=channels, size=(8, 6))
    assert train.info == DatasetInfo("scans", 2, (channels, 8, 6), classes=("healthy", "ill"))
    for part in (train, test):
        pixels = part.info.denormalise(part.images).mul(255).round()
        expected = torch.tensor([51.0, 204.0])[part.labels][:, None, None, None]
        assert ((pixels - expected).abs() <= 1).all()


def test_resizing_is_antialiased_and_grey_is_luma(tmp_path: Path) -> None:
    for part, name in itertools.product(("train", "test"), ("a", "b")):
        (tmp_path / part / name).mkdir(parents=True)
        board = np.indices((16, 16)).sum(axis=0) % 2 * 255
        picture = np.stack([board, np.zeros_like(board), np.zeros_like(board)], axis=2).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / part / name / "0.png")
    train, _ = load_dataset(tmp_path, channels=1, size=4)
    shades = train.info.denormalise(train.images)
    assert torch.allclose(shades, torch.full_like(shades, 0.299 / 2), atol=0.02)


def test_what_cannot_be_brought_to_8_bits_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "scans")
    deep = np.full((5, 4), 4000, dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "scans" / "train" / "cat" / "0.png")
    with pytest.raises(DataError, match=r"mode I;16.*8 bits"):
        load_dataset(tmp_path / "scans", channels=1, size=8)
    for wrong in ({"size": 0}, {"size": (1, 2, 3)}, {"size": "8"}, {"size": 1 << 20}, {"channels": 2}):
        with pytest.raises(DataError, match=next(iter(wrong))):
            load_dataset(tmp_path / "scans", **wrong)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="size = 8 for 'digits'"):
        load_dataset("digits", size=8)
