"""The synthetic data set: bit-exact files, refusal of damaged ones, the picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from private_distdd.data.datasets import DatasetInfo
from private_distdd.data.synthetic import FORMAT, SyntheticDataset
from private_distdd.errors import DataError

INFO = DatasetInfo("pets", 3, (3, 8, 6), (0.4914, 0.1, 1 / 3), (0.2023, 0.3, 0.7))


def make(info: DatasetInfo = INFO, ipc: int = 2) -> SyntheticDataset:
    images = torch.randn((info.num_classes * ipc, *info.image_shape), generator=torch.Generator().manual_seed(0))
    return SyntheticDataset(images.requires_grad_(), torch.arange(info.num_classes).repeat_interleave(ipc), info)


def test_it_is_a_data_set_for_a_loader() -> None:
    data = make()
    assert data.ipc == 2
    assert not data.images.requires_grad
    image, label = data[3]
    assert type(label) is int
    assert (image.dtype, image.shape, label) == (torch.float32, (3, 8, 6), 1)
    batches = list(DataLoader(data, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(0)))
    assert [len(images) for images, _ in batches] == [4, 2]
    assert torch.cat([labels for _, labels in batches]).sort().values.tolist() == [0, 0, 1, 1, 2, 2]


def test_saving_and_loading_is_bit_exact(tmp_path: Path) -> None:
    data = make()
    data.images[0, 0, 0, :3] = torch.tensor([1e-45, -0.0, 3e38])
    data.save(tmp_path / "synthetic.safetensors")
    loaded = SyntheticDataset.load(tmp_path / "synthetic.safetensors")
    assert torch.equal(loaded.images.view(torch.int32), data.images.view(torch.int32))
    assert torch.equal(loaded.labels, data.labels)
    assert loaded.info == INFO  # 1 / 3 included
    data.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "synthetic.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([0, 1, 2, 0, 1, 2], "not in class order"),
        ([0, 0, 0, 1, 1, 2], "equally many"),
        ([0, 0, 1, 1], "6 images and 4 labels"),
        ([0, 0, 1, 1, 2, 3], "label 3 of example 5"),
    ],
)
def test_classes_must_be_complete_and_in_order(labels: list[int], says: str) -> None:
    with pytest.raises(DataError, match=says):
        SyntheticDataset(make().images, torch.tensor(labels), INFO)


def test_an_empty_set_is_refused() -> None:
    with pytest.raises(DataError, match="ipc >= 1"):
        SyntheticDataset(torch.empty(0, 3, 8, 6), torch.empty(0, dtype=torch.int64), INFO)


@pytest.mark.parametrize(
    ("tensors", "header", "says"),
    [
        ({"images": None}, {}, "and tensors"),
        ({"extra": torch.zeros(1)}, {}, "and tensors"),
        ({"images": torch.zeros(6, 3, 8, 6, dtype=torch.float64)}, {}, "and tensors"),
        ({"labels": torch.zeros(6)}, {}, "and tensors"),
        ({"images": torch.zeros(6, 3, 8)}, {}, r"\[n, C, H, W\]"),
        ({"images": torch.full((6, 3, 8, 6), float("nan"))}, {}, "NaN"),
        ({"labels": torch.tensor([0, 0, 1, 1, 2, 7])}, {}, "label 7 of example 5"),
        ({"mean": torch.zeros(2, dtype=torch.float64)}, {}, "3 finite numbers"),
        ({"std": torch.zeros(3, dtype=torch.float64)}, {}, "numbers > 0"),
        ({"std": torch.ones(3, 1, dtype=torch.float64)}, {}, r"std \[3, 1\]"),
        ({}, {"format": "other/1"}, "other/1"),
        ({}, {"num_classes": -3}, "num_classes = -3"),
        ({}, {"num_classes": 2}, "label 2 of example 4"),
        ({}, {"num_classes": None}, "num_classes = None"),
        ({}, {"name": ""}, "non-empty"),
    ],
)
def test_damaged_files_are_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor | None], header: dict[str, object], says: str
) -> None:
    path = tmp_path / "synthetic.safetensors"
    make().save(path)
    changed = {key: tensor for key, tensor in (load_file(path) | tensors).items() if tensor is not None}
    save_file(changed, path, {"json": json.dumps({"format": FORMAT, "name": "pets", "num_classes": 3} | header)})
    with pytest.raises(DataError, match=says):
        SyntheticDataset.load(path)


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing"):
        SyntheticDataset.load(tmp_path / "missing.safetensors")
    path = tmp_path / "synthetic.safetensors"
    make().save(path)
    foreign = tmp_path / "foreign.safetensors"
    for metadata in (None, {"format": "pt"}, {"json": "[]"}):
        save_file(load_file(path), foreign, metadata)
        with pytest.raises(DataError, match="allowed: format 'private_distdd"):
            SyntheticDataset.load(foreign)
    save_file(load_file(path), foreign, {"json": "{"})
    with pytest.raises(DataError, match="readable safetensors"):
        SyntheticDataset.load(foreign)
    for content in (b"", b"hello, world", path.read_bytes()[:-5]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="readable safetensors"):
            SyntheticDataset.load(path)


def test_the_picture_shows_a_row_a_class(tmp_path: Path) -> None:
    info = DatasetInfo("x", 2, (3, 8, 8))
    colours = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [9, -9, 0], [0, 0, 0]])  # normalised with 0.5 / 0.5
    images = colours[:, :, None, None].expand(4, 3, 8, 8)
    data = SyntheticDataset(images, torch.tensor([0, 0, 1, 1]), info)
    grid = data.grid()
    assert grid.dtype == np.uint8
    assert grid.shape == (98, 98, 3)  # two pictures of 48 and a gap of 2
    assert grid[47, 0].tolist() == [255, 0, 0]  # class 0, first
    assert grid[0, 97].tolist() == [0, 255, 0]  # class 0, second
    assert grid[97, 0].tolist() == [255, 0, 128]  # class 1, first, clamped
    assert grid[48].min() == grid[:, 49].min() == 255
    data.preview(tmp_path / "preview.png")
    with Image.open(tmp_path / "preview.png") as picture:
        assert (np.array(picture) == grid).all()


def test_the_picture_keeps_pixels_and_shows_grey(tmp_path: Path) -> None:
    info = DatasetInfo("x", 2, (1, 28, 28), (0.0,), (1.0,))
    images = torch.arange(2 * 784).reshape(2, 1, 28, 28) % 256 / 255
    grid = SyntheticDataset(images, torch.tensor([0, 1]), info).grid()
    assert grid.shape == (2 * 56 + 2, 56, 3)
    shown = grid[58:, :, 1][::2, ::2]
    assert (shown == images[1, 0].mul(255).round().numpy()).all()
    assert (grid[..., 0] == grid[..., 2]).all()
    two = SyntheticDataset(torch.zeros(2, 2, 60, 50), torch.tensor([0, 1]), DatasetInfo("x", 2, (2, 60, 50)))
    assert two.grid().shape == (122, 50, 3)
