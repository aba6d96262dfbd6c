"""Loading: what each source yields, and a clear refusal of what cannot be used."""

from __future__ import annotations

import dataclasses
import json
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from private_distdd.data.dataset import ImageDataset, check_labels, from_torch, materialise
from private_distdd.data.info import DatasetInfo
from private_distdd.data.load import load_dataset
from private_distdd.errors import DataError

INFO = DatasetInfo("tiny", 3, (1, 2, 2))


class Pairs(Dataset):
    """A map-style data set of whatever pairs a test gives."""

    def __init__(self, *pairs: object) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> object:
        return self.pairs[index]


def test_info_repeats_constants_per_channel_and_survives_json() -> None:
    info = DatasetInfo("x", 4, (3, 5, 6), std=(0.1, 0.2, 0.3))
    assert info.mean == (0.5, 0.5, 0.5)
    assert DatasetInfo.from_json(json.loads(json.dumps(info.to_json()))) == info
    assert hash(info) == hash(dataclasses.replace(info))
    pixels = torch.rand((2, 3, 5, 6), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(info.normalise(pixels)[:, 1], (pixels[:, 1] - 0.5) / 0.2)
    assert torch.allclose(info.denormalise(info.normalise(pixels)), pixels, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": ""}, "non-empty"),
        ({"num_classes": 1}, "at least 2"),
        ({"num_classes": True}, "at least 2"),
        ({"shape": (1, 0, 2)}, "each >= 1"),
        ({"shape": (2, 2)}, "channels, height, width"),
        ({"mean": (0.1, 0.2)}, "1 finite numbers"),
        ({"mean": (float("nan"),)}, "finite"),
        ({"std": (0.0,)}, "numbers > 0"),
    ],
)
def test_bad_info_is_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises(DataError, match=says):
        dataclasses.replace(INFO, **change)
    with pytest.raises(DataError, match="fields"):
        DatasetInfo.from_json({"name": "x"})


def test_image_dataset_yields_float_images_and_int_labels() -> None:
    data = ImageDataset(
        torch.zeros(5, 1, 2, 2, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1], dtype=torch.uint8), INFO
    )
    image, label = data[1]
    assert image.dtype == torch.float32
    assert image.shape == (1, 2, 2)
    assert type(label) is int
    assert label == 1
    batch, labels = next(iter(DataLoader(data, batch_size=4)))
    assert batch.shape == (4, 1, 2, 2)
    assert labels.tolist() == [0, 1, 2, 0]
    assert len(ImageDataset(torch.empty(0, 1, 2, 2), torch.empty(0, dtype=torch.int64), INFO)) == 0


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        (torch.zeros(2, 1, 2, 2), torch.tensor([0, 3]), "label 3 of example 1"),
        (torch.zeros(2, 1, 2, 2), torch.tensor([-1, 0]), "label -1 of example 0"),
        (torch.zeros(2, 1, 2, 2), torch.tensor([0.0, 1.0]), "float32"),
        (torch.zeros(2, 1, 2, 2), torch.tensor([False, True]), "torch.bool"),
        (torch.zeros(2, 1, 2, 2), torch.tensor([[0], [1]]), r"\[2, 1\]"),
        (torch.zeros(2, 1, 2, 2), [0, 1], "labels are list"),
        (torch.zeros(2, 1, 2, 2), torch.tensor([0]), "2 images and 1 labels"),
        (torch.zeros(2, 1, 2, 3), torch.tensor([0, 1]), r"\[n, 1, 2, 2\]"),
        (torch.zeros(2, 2, 2), torch.tensor([0, 1]), r"\[n, 1, 2, 2\]"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1]), "torch.uint8"),
        (torch.tensor([0, float("nan")]).expand(2, 1, 2, 2), torch.tensor([0, 1]), "image 0 has a NaN"),
        (torch.full((1, 1, 2, 2), 1e300, dtype=torch.float64), torch.tensor([0]), "infinite pixel"),
    ],
)
def test_bad_tensors_are_refused(images: torch.Tensor, labels: torch.Tensor, says: str) -> None:
    with pytest.raises(DataError, match=says):
        ImageDataset(images, labels, INFO)


def test_materialise_reads_any_map_style_data_set() -> None:
    images = torch.rand((4, 1, 2, 2), generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 1])
    fast = ImageDataset(images, labels, INFO)
    mixed = Pairs((images[0], 0), (images[1].double(), np.int64(1)), (images[2], torch.tensor(2)), [images[3], 1])
    for dataset in (fast, TensorDataset(images, labels), mixed, Subset(fast, range(4))):
        found = materialise(dataset)
        assert torch.equal(found[0], images)
        assert torch.equal(found[1], labels)
    for dataset in (Subset(Subset(fast, [3, 1, 0]), [0, 2]), Subset(TensorDataset(images, labels), [3, 0])):
        found = materialise(dataset)
        assert torch.equal(found[0], images[[3, 0]])
        assert found[1].tolist() == [1, 0]


def test_materialise_trusts_no_attributes() -> None:
    class Doubled(ImageDataset):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return self.images[index] * 2, 2

    images, labels = materialise(Doubled(torch.ones(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64), INFO))
    assert images.unique().tolist() == [2.0]
    assert labels.tolist() == [2, 2, 2]


def test_an_empty_data_set_is_legal_where_the_shape_is_known() -> None:
    fast = ImageDataset(torch.ones(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64), INFO)
    for empty in (Pairs(), Subset(fast, [])):
        images, labels = materialise(empty, (1, 2, 2))
        assert images.shape == (0, 1, 2, 2)
        assert labels.shape == (0,)
        with pytest.raises(DataError, match="unknown image shape"):
            materialise(empty)
    assert len(from_torch(Pairs(), num_classes=3, shape=(3, 4, 4))) == 0


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        ([(torch.zeros(1, 2, 2), 0), (torch.zeros(1, 2, 3), 0)], "image 1 has shape"),
        ([(torch.zeros(2, 2), 0)], r"\[n, C, H, W\]"),
        ([(torch.zeros(1, 2, 2), 0), (torch.tensor([[[float("inf")] * 2] * 2]), 0)], "image 1 has a NaN or infinite"),
        ([(torch.zeros(1, 2, 2, dtype=torch.uint8), 0)], "image 0 is torch.uint8"),
        ([("not an image", 0)], "image 0 is str"),
        ([torch.zeros(1, 2, 2)], "example 0 is a Tensor"),
        ([(torch.zeros(1, 2, 2), 1.0)], "label of example 0 is a float"),
        ([(torch.zeros(1, 2, 2), True)], "label of example 0 is a bool"),
        ([(torch.zeros(1, 2, 2), torch.tensor(1.0))], "torch.float32"),
        ([(torch.zeros(1, 2, 2), torch.tensor(True))], "torch.bool"),
        ([(torch.zeros(1, 2, 2), torch.tensor([1]))], "without dimensions"),
    ],
)
def test_bad_examples_are_refused(pairs: list[object], says: str) -> None:
    with pytest.raises(DataError, match=says):
        materialise(Pairs(*pairs))


def test_materialise_refuses_streams_and_other_shapes() -> None:
    class Stream(IterableDataset):
        def __iter__(self) -> Iterator[object]:
            return iter(())

    with pytest.raises(DataError, match="map-style"):
        materialise(Stream())
    with pytest.raises(DataError, match=r"\[n, 1, 3, 3\]"):
        materialise(Pairs((torch.zeros(1, 2, 2), 0)), (1, 3, 3))


def test_from_torch_normalises_with_the_given_constants() -> None:
    data = from_torch(Pairs((torch.full((1, 2, 2), 0.75), 2)), num_classes=3, mean=0.25, std=0.5)
    assert data.info == DatasetInfo("own", 3, (1, 2, 2), (0.25,), (0.5,))
    assert data.images.unique().tolist() == [1.0]
    with pytest.raises(DataError, match=r"image 0 has a pixel outside \[0, 1\]"):
        from_torch(Pairs((torch.full((1, 2, 2), 255.0), 2)), num_classes=3)
    with pytest.raises(DataError, match="label 2 of example 0"):
        from_torch(Pairs((torch.zeros(1, 2, 2), 2)), num_classes=2)


def test_check_labels_returns_int64() -> None:
    assert check_labels(torch.tensor([0, 2], dtype=torch.uint8), 3).dtype == torch.int64
    assert check_labels(torch.empty(0, dtype=torch.int32), 3).shape == (0,)


def test_digits_split_is_deterministic_disjoint_and_stratified() -> None:
    train, test = load_dataset("digits")
    again, _ = load_dataset("digits")
    assert torch.equal(train.images, again.images)
    assert train.info == DatasetInfo("digits", 10, (1, 8, 8))
    assert len(train) + len(test) == 1797
    assert 0.24 < len(test) / 1797 < 0.26
    counts, test_counts = train.labels.bincount(), test.labels.bincount()
    assert len(counts) == len(test_counts) == 10
    assert (counts // 3 - test_counts).abs().max() <= 1
    for data in (train, test):  # pixels 0 ... 16, then (pixel / 16 - 0.5) / 0.5
        assert data.images.min() == -1
        assert data.images.max() == 1
    both = torch.cat([train.images, test.images]).flatten(1)
    assert len(both.unique(dim=0)) == 1797  # no two digits are equal, so none is in both parts
    darker, _ = load_dataset("digits", mean=0, std=[1])
    assert torch.allclose(darker.images, train.images / 2 + 0.5)


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
    assert train.info == DatasetInfo("pets", 2, (channels, 5, 4))
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


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": (2**26, 1, 1)},
        {"shape": (1, 2**20, 2**20)},
        {"num_classes": 2**40},
        {"name": "x" * 10**6},
        {"shape": (2**70, 1, 1)},
    ],
)
def test_a_few_bytes_cannot_stand_for_much(changes: dict[str, Any]) -> None:
    """Constants are repeated for each channel: 265 bytes once took 88 s and 7 GB."""
    record = DatasetInfo("x", 2, (1, 8, 8)).to_json() | changes
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as caught:
            DatasetInfo.from_json(record)
        assert len(str(caught.value)) < 2000
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()


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


def test_names_and_roots_that_lead_nowhere_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'digits', 'mnist', 'fashionmnist', 'cifar10'"):
        load_dataset("imagenet")
    with pytest.raises(DataError, match="root = None"):
        load_dataset("mnist")
    for name in ("mnist", "fashionmnist", "cifar10"):
        with pytest.raises(DataError, match="download=True"):
            load_dataset(name, root=tmp_path)
    with pytest.raises(DataError, match="num_classes"):
        load_dataset("digits", num_classes=10)


def test_cifar10_axes_and_constants(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)

    def stand_in(root: str, train: bool, download: bool) -> SimpleNamespace:
        assert root == str(tmp_path)
        return SimpleNamespace(data=pixels[: 3 if train else 1], targets=[9, 0, 5][: 3 if train else 1])

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", stand_in)
    train, test = load_dataset("cifar10", root=tmp_path)
    assert train.info == DatasetInfo("cifar10", 10, (3, 32, 32), (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    assert (len(train), len(test)) == (3, 1)
    expected = (pixels[1, 7, 11, 2] / 255 - 0.4465) / 0.2010
    assert train.images[1, 2, 7, 11].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.data
@pytest.mark.parametrize(("name", "mean", "std"), [("mnist", 0.1307, 0.3081), ("fashionmnist", 0.2861, 0.3530)])
def test_torchvision_data_sets(name: str, mean: float, std: float) -> None:
    root = os.environ.get("PRIVATE_DISTDD_DATA")
    if root is None:
        pytest.skip(
            'prepare with: python -c "from private_distdd.data import load_dataset as load; '
            "[load(n, root='data', download=True) for n in ('mnist', 'fashionmnist')]\"; "
            "export PRIVATE_DISTDD_DATA=data"
        )
    train, test = load_dataset(name, root=root)
    assert train.info == DatasetInfo(name, 10, (1, 28, 28), (mean,), (std,))
    assert (len(train), len(test)) == (60_000, 10_000)
    assert test.labels.bincount()[:3].tolist() == ([980, 1135, 1032] if name == "mnist" else [1000] * 3)
    # The published constants are the training set's own, so what they yield is standardised.
    assert train.images.mean().abs() < 1e-3
    assert abs(train.images.std() - 1) < 1e-3
