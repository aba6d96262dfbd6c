"""Keras-style files: axes, types, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from private_distdd.data.info import DatasetInfo
from private_distdd.data.load import load_dataset
from private_distdd.errors import DataError


def write_npz(path: Path, **changes: object) -> Path:
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (6, 4, 5), dtype=np.uint8),
        "y_train": np.array([0, 1, 2, 0, 1, 2]),
        "x_test": rng.integers(0, 256, (2, 4, 5), dtype=np.uint8),
        "y_test": np.array([[2], [0]], dtype=np.uint8),
    } | changes
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


def test_npz_grey_round_trip(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "own.npz")
    train, test = load_dataset(path)
    assert train.info == DatasetInfo("own", 3, (1, 4, 5))
    with np.load(path) as arrays:
        pixels = train.info.denormalise(train.images).squeeze(1).mul(255).round().numpy()
        assert (pixels == arrays["x_train"]).all()
    assert test.labels.tolist() == [2, 0]
    assert load_dataset(str(path), num_classes=7)[0].info.num_classes == 7


@pytest.mark.parametrize(
    ("shape", "permutation"),
    [((4, 5, 3), (0, 3, 1, 2)), ((3, 4, 5), (0, 1, 2, 3)), ((3, 5, 3), (0, 3, 1, 2)), ((1, 4, 5), (0, 1, 2, 3))],
)
def test_npz_axes(tmp_path: Path, shape: tuple[int, ...], permutation: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    x_train, x_test = rng.random((6, *shape)), rng.random((2, *shape), dtype=np.float32)
    train, _ = load_dataset(write_npz(tmp_path / "own.npz", x_train=x_train, x_test=x_test), mean=0, std=1)
    assert np.allclose(train.images.numpy(), x_train.transpose(permutation), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"x_test": None}, "x_test"),
        ({"y_train": np.array([0, 1, 2, 0, 1, 5]), "num_classes": 3}, "label 5 of example 5"),
        ({"y_train": np.array([0, 1, 2, 0, 1, -2])}, "label -2 of example 5"),
        ({"y_train": np.arange(6.0)}, "y_train is float64"),
        ({"y_train": np.arange(5)}, "6 images and 5 labels"),
        ({"y_train": np.array([{}] * 6)}, "allow_pickle"),
        ({"x_train": np.zeros((6, 4, 5), np.int64)}, "x_train of type int64"),
        ({"x_train": np.full((6, 4, 5), 255.0)}, r"outside \[0, 1\]"),
        ({"x_train": np.full((6, 4, 5), np.nan)}, "NaN"),
        ({"x_train": np.zeros((6, 4, 5, 2), np.uint8)}, r"x_train of shape \(6, 4, 5, 2\)"),
        ({"x_test": np.zeros((2, 4, 6), np.uint8)}, "test images of shape"),
    ],
)
def test_bad_npz_is_refused(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    num_classes = changes.pop("num_classes", None)
    with pytest.raises(DataError, match=says):
        load_dataset(write_npz(tmp_path / "own.npz", **changes), num_classes=num_classes)


def test_files_that_are_no_npz_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file"):
        load_dataset(tmp_path / "missing.npz")
    whole = write_npz(tmp_path / "own.npz").read_bytes()
    for name, content in (("text.npz", b"hello"), ("empty.npz", b""), ("cut.npz", whole[: len(whole) // 2])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="plain arrays"):
            load_dataset(tmp_path / name)
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match="a single array"):
        load_dataset(tmp_path / "array.npz")


def test_medmnist_s_names_are_known_and_its_validation_part_is_in_neither_set(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts = {
        f"{part}_{what}": values
        for part, count in (("train", 6), ("val", 3), ("test", 2))
        for what, values in (
            ("images", rng.integers(0, 256, (count, 28, 28, 3), dtype=np.uint8)),
            ("labels", (np.arange(count) % 2).astype(np.uint8)[:, None]),
        )
    }
    np.savez(tmp_path / "breast.npz", **parts)
    names = ("malignant", "benign")
    train, test = load_dataset(tmp_path / "breast.npz", classes=names, channels=1, size=14)
    assert train.info == test.info == DatasetInfo("breast", 2, (1, 14, 14), classes=names)
    assert (len(train), len(test)) == (6, 2)
    assert train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    grey = parts["test_images"] @ np.array([0.299, 0.587, 0.114]) / 255
    assert float(test.info.denormalise(test.images).mean()) == pytest.approx(grey.mean(), abs=0.01)
    np.savez(tmp_path / "chest.npz", **(parts | {"train_labels": np.zeros((6, 14))}))
    with pytest.raises(DataError, match="train_labels"):  # several findings an image: no label
        load_dataset(tmp_path / "chest.npz")
    np.savez(tmp_path / "half.npz", train_images=parts["train_images"])
    with pytest.raises(DataError, match="or train_images, train_labels"):
        load_dataset(tmp_path / "half.npz")
