"""The synthetic data set: bit-exact files, refusal of damaged ones, the picture."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, Subset

from private_distdd.data.dataset import materialise
from private_distdd.data.info import DatasetInfo
from private_distdd.data.normalised import from_torch
from private_distdd.errors import ConfigurationError, DataError
from private_distdd.synthetic.dataset import FORMAT, SyntheticDataset
from private_distdd.synthetic.mosaic import expand

INFO = DatasetInfo("pets", 3, (3, 8, 6), (0.4914, 0.1, 1 / 3), (0.2023, 0.3, 0.7))


def make(info: DatasetInfo = INFO, ipc: int = 2) -> SyntheticDataset:
    images = torch.randn((info.num_classes * ipc, *info.shape), generator=torch.Generator().manual_seed(0))
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


# Mosaics


def mosaic(partition: int = 2, ipc: int = 2) -> SyntheticDataset:
    whole = make(ipc=ipc)
    return SyntheticDataset(whole.images, whole.labels, INFO, partition)


def enlarged(image: torch.Tensor, partition: int, part: int) -> torch.Tensor:
    """One part of one image, enlarged number by number: bilinear between pixel centres, the edge repeated."""
    channels, height, width = image.shape
    rows, columns = height // partition, width // partition
    top, left = part // partition * rows, part % partition * columns
    out = torch.zeros_like(image)
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) / partition - 0.5, 0), rows - 1)
            x = min(max((j + 0.5) / partition - 0.5, 0), columns - 1)
            near = [(math.floor(y), math.floor(x))]
            near = [(near[0][0] + a, near[0][1] + b) for a in (0, 1) for b in (0, 1)]
            for c in range(channels):
                out[c, i, j] = sum(
                    (1 - abs(y - k))
                    * (1 - abs(x - m))
                    * float(image[c, top + min(k, rows - 1), left + min(m, columns - 1)])
                    for k, m in near
                )
    return out


@pytest.mark.parametrize("partition", [1, 2])
def test_parts_are_enlarged_as_by_hand(partition: int) -> None:
    data = mosaic(partition)
    found = expand(data.images, partition)
    assert found.shape == (6 * partition**2, 3, 8, 6)
    for index, image in enumerate(found):
        number, part = divmod(index, partition**2)
        assert torch.allclose(image, enlarged(data.images[number], partition, part), atol=1e-5)
    if partition > 1:
        assert not torch.allclose(found[1], enlarged(data.images[0], partition, 2), atol=0.1)


def test_other_partitions_and_gradients() -> None:
    info = DatasetInfo("x", 2, (1, 12, 6))
    images = torch.arange(2 * 72, dtype=torch.float64).reshape(2, 1, 12, 6).requires_grad_()
    for partition in (2, 3, 6):
        found = expand(images, partition)
        assert found.shape == (2 * partition**2, 1, 12, 6)
        for index in (0, partition**2 - 1, partition**2 + 1):
            number, part = divmod(index, partition**2)
            expected = enlarged(images.detach()[number], partition, part)
            assert torch.allclose(found[index], expected, atol=1e-9)
        (gradient,) = torch.autograd.grad(found.sum(), [images])
        assert torch.allclose(gradient, torch.full_like(gradient, partition**2))  # each pixel is seen so often
    assert len(SyntheticDataset(images, torch.tensor([0, 1]), info, 6)) == 72


def test_iteration_yields_parts_and_storage_stays() -> None:
    data = mosaic()
    assert data.ipc == 2
    assert data.images.shape == (6, 3, 8, 6)
    assert len(data.labels) == 6
    assert len(data) == 24
    whole = data.expanded()
    assert len(whole) == 24
    assert whole.info == INFO
    assert whole.labels.tolist() == [c for c in range(3) for _ in range(8)]
    for index, (image, label) in enumerate(data):
        assert type(label) is int
        assert torch.equal(image, whole.images[index])
        assert label == int(whole.labels[index])
        assert torch.equal(image, data[index - 24][0])
        assert label == data[index - 24][1]
    for index in (24, -25, 1000):
        with pytest.raises(IndexError):
            data[index]
    assert torch.equal(mosaic(1).expanded().images, make().images)
    assert all(torch.equal(image, stored) for (image, _), stored in zip(mosaic(1), make().images, strict=True))


def test_a_loader_and_a_subset_see_parts() -> None:
    data = mosaic()
    whole = data.expanded()
    batches = list(DataLoader(data, batch_size=10))
    assert [len(images) for images, _ in batches] == [10, 10, 4]
    assert torch.equal(torch.cat([images for images, _ in batches]), whole.images)
    assert torch.equal(torch.cat([labels for _, labels in batches]), whole.labels)
    chosen = [23, 0, 9]
    for found, expected in ((data, range(24)), (Subset(data, chosen), chosen)):
        images, labels = materialise(found)
        assert torch.equal(images, whole.images[list(expected)])
        assert torch.equal(labels, whole.labels[list(expected)])
    unit = SyntheticDataset(data.images.sigmoid(), data.labels, INFO, 2)
    assert len(from_torch(unit, num_classes=3)) == 24


@pytest.mark.parametrize("partition", [1, 2])
def test_files_keep_the_partition_and_every_bit(tmp_path: Path, partition: int) -> None:
    data = mosaic(partition)
    data.save(tmp_path / "synthetic.safetensors")
    loaded = SyntheticDataset.load(tmp_path / "synthetic.safetensors")
    assert loaded.partition == partition
    assert torch.equal(loaded.images.view(torch.int32), data.images.view(torch.int32))
    assert len(loaded) == len(data)
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "synthetic.safetensors").read_bytes()
    assert np.array_equal(data.grid(), make().grid())  # the picture shows what is stored


def test_files_from_before_partitions_are_whole_images(tmp_path: Path) -> None:
    path = tmp_path / "synthetic.safetensors"
    make().save(path)
    save_file(load_file(path), path, {"json": json.dumps({"format": FORMAT, "name": "pets", "num_classes": 3})})
    loaded = SyntheticDataset.load(path)
    assert loaded.partition == 1
    assert len(loaded) == 6
    assert torch.equal(loaded.images, make().images)


@pytest.mark.parametrize("partition", [0, -1, 3, 4, 8, 1.0, 2.0, True, "2", None, math.nan, [2]])
def test_bad_partitions_are_refused(tmp_path: Path, partition: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"partition = .* for images of 8 x 6"):
        SyntheticDataset(make().images, make().labels, INFO, partition)
    path = tmp_path / "synthetic.safetensors"
    make().save(path)
    header = {"format": FORMAT, "name": "pets", "num_classes": 3, "partition": partition}
    save_file(load_file(path), path, {"json": json.dumps(header)})
    with pytest.raises(DataError, match="partition"):
        SyntheticDataset.load(path)
