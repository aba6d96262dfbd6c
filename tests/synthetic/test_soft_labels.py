"""Soft labels of S: one for each example that is yielded, in that order; files to the bit; what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError, DataError
from private_distdd.synthetic.dataset import FORMAT, SyntheticDataset

INFO = DatasetInfo("pets", 3, (2, 12, 6))
ROWS = DatasetInfo("people", 3, (4,))
SOFT = "private_distdd.synthetic/4"


def make(info: DatasetInfo = INFO, partition: int = 1, ipc: int = 2, seed: int = 0) -> SyntheticDataset:
    generator = torch.Generator().manual_seed(seed)
    count = info.num_classes * ipc
    images = torch.randn((count, *info.shape), generator=generator)
    soft = torch.randn((count * partition**2, info.num_classes), generator=generator).mul(3).softmax(dim=1)
    return SyntheticDataset(images, torch.arange(info.num_classes).repeat_interleave(ipc), info, partition, soft)


def soft_of(data: SyntheticDataset) -> torch.Tensor:
    assert data.soft_labels is not None
    return data.soft_labels


@settings(max_examples=20)
@given(st.sampled_from([1, 2, 3, 6]), st.integers(1, 3), st.integers(2, 4), st.integers(0, 100))
def test_each_yielded_example_has_its_own(partition: int, ipc: int, classes: int, seed: int) -> None:
    data = make(DatasetInfo("x", classes, (1, 12, 6)), partition, ipc, seed)
    soft, whole = data.soft(), data.expanded()
    assert len(soft) == len(data) == len(whole) == classes * ipc * partition**2
    assert torch.equal(soft_of(whole), soft_of(data))
    assert whole.partition == 1
    for index, (image, label) in enumerate(data):
        assert type(label) is int
        found, distribution = soft[index]
        assert torch.equal(found, image)
        assert torch.equal(distribution, soft_of(data)[index])
        assert torch.equal(image, whole[index][0])
        assert label == whole[index][1] == index // (ipc * partition**2)


def test_a_loader_of_soft_labels_trains_as_it_is() -> None:
    data = make(partition=2)
    images, labels = next(iter(DataLoader(data.soft(), batch_size=24)))
    assert (images.shape, labels.shape) == ((24, 2, 12, 6), (24, 3))
    assert torch.nn.functional.cross_entropy(images.flatten(1)[:, :3], labels).isfinite()


@settings(max_examples=15)
@given(st.sampled_from([(INFO, 1), (INFO, 2), (INFO, 3), (ROWS, 1)]), st.integers(1, 3), st.integers(0, 100))
def test_files_keep_every_bit(
    tmp_path_factory: pytest.TempPathFactory, kind: tuple[DatasetInfo, int], ipc: int, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("s")
    data = make(*kind, ipc, seed)
    soft_of(data)[0] = torch.tensor([1.0, 1e-45, -0.0])
    data.save(folder / "a")
    loaded = SyntheticDataset.load(folder / "a")
    assert torch.equal(soft_of(loaded).view(torch.int32), soft_of(data).view(torch.int32))
    assert torch.equal(loaded.images.view(torch.int32), data.images.view(torch.int32))
    assert torch.equal(loaded.labels, data.labels)
    assert (loaded.info, loaded.partition, loaded.ipc) == (*kind, ipc)
    loaded.save(folder / "b")
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()


@pytest.mark.parametrize(
    ("info", "partition", "more"), [(INFO, 1, {}), (INFO, 2, {"partition": 2}), (ROWS, 1, {"form": "table"})]
)
def test_the_header_says_so(tmp_path: Path, info: DatasetInfo, partition: int, more: dict[str, Any]) -> None:
    """Readers of the formats 1 to 3 know no format 4, and refuse it."""
    make(info, partition).save(tmp_path / "s")
    with safe_open(tmp_path / "s", framework="pt") as file:
        header = json.loads(file.metadata()["json"])
    assert header == {"format": SOFT, "name": info.name, "num_classes": 3} | more


def test_they_are_optional(tmp_path: Path) -> None:
    data = SyntheticDataset(make().images, make().labels, INFO)
    assert data.soft_labels is None
    assert data.expanded().soft_labels is None
    with pytest.raises(ConfigurationError, match=r"soft labels .*has none; allowed: hard labels"):
        data.soft()
    data.save(tmp_path / "s")
    with safe_open(tmp_path / "s", framework="pt") as file:
        assert json.loads(file.metadata()["json"])["format"] == FORMAT
    assert SyntheticDataset.load(tmp_path / "s").soft_labels is None


THIRDS = torch.full((6, 3), 1 / 3)


def changed(row: list[float], place: int = 4) -> torch.Tensor:
    soft = THIRDS.clone()
    soft[place] = torch.tensor(row)
    return soft


@pytest.mark.parametrize(
    ("soft", "says"),
    [
        (changed([0.5, 0.5, 0.001]), "example 4 has least value 0.001 and sum 1.001"),
        (changed([0.5, 0.4998, 0.0]), "example 4"),
        (changed([1.0, 0.5, -0.5]), "least value -0.5"),
        (changed([float("nan"), 0.5, 0.5], 0), "example 0 has least value nan"),
        (changed([float("inf"), 0.0, 0.0]), "sum inf"),
        (torch.zeros(6, 3), "example 0 has least value 0 and sum 0"),
        (THIRDS[:5], r"shape \[5, 3\]; allowed: a floating point tensor \[6, 3\]"),
        (torch.full((24, 3), 1 / 3), r"shape \[24, 3\]"),
        (torch.full((6, 4), 0.25), r"shape \[6, 4\]"),
        (torch.full((6,), 1.0), r"shape \[6\]"),
        (torch.tensor([[1, 0, 0]] * 6), "int64"),
        (THIRDS.to(torch.complex64), "complex64"),
        ([[1.0, 0.0, 0.0]] * 6, "list"),
    ],
)
def test_what_is_no_distribution_is_refused(soft: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        SyntheticDataset(make().images, make().labels, INFO, soft_labels=soft)


def test_rounding_is_allowed_and_kept() -> None:
    soft = changed([0.5, 0.49995, 0.0]).double().requires_grad_()
    kept = soft_of(SyntheticDataset(make().images, make().labels, INFO, soft_labels=soft))
    assert (kept.dtype, kept.requires_grad) == (torch.float32, False)
    assert torch.equal(kept, soft.detach().float())


@pytest.mark.parametrize(
    ("tensors", "header", "says"),
    [
        ({}, {"format": FORMAT}, "and tensors"),
        ({}, {"format": "private_distdd.synthetic/2", "partition": 1}, "and tensors"),
        ({"soft_labels": None}, {}, "and tensors"),
        ({"soft_labels": THIRDS.double()}, {}, "and tensors"),
        ({"soft_labels": THIRDS[:5]}, {}, r"shape \[5, 3\]"),
        ({"soft_labels": changed([0.5, 0.5, 0.5])}, {}, "sum 1.5"),
        ({"soft_labels": changed([float("nan")] * 3)}, {}, "nan"),
        ({}, {"partition": 2}, r"shape \[6, 3\]"),
        ({}, {"partition": 5}, "divides"),
        ({}, {"form": "table"}, r"\[n, features\]"),
        ({}, {"form": "table", "partition": 1}, "allowed: format"),
        ({}, {"form": "image"}, "allowed: format"),
        ({}, {"format": "private_distdd.synthetic/5"}, "allowed: format"),
    ],
)
def test_damaged_files_are_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor | None], header: dict[str, Any], says: str
) -> None:
    path = tmp_path / "s"
    make().save(path)
    whole = {name: tensor for name, tensor in (load_file(path) | tensors).items() if tensor is not None}
    save_file(whole, path, {"json": json.dumps({"format": SOFT, "name": "pets", "num_classes": 3} | header)})
    with pytest.raises(DataError, match=says):
        SyntheticDataset.load(path)
