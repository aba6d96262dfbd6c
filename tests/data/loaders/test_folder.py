"""Folders of images: their classes are what the caller says, and all images are alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
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
