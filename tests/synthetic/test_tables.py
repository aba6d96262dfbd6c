"""A synthetic table: files, refusals, and the picture; images' files keep their bytes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from private_distdd.data.info import DatasetInfo
from private_distdd.data.scatter import scatter_plot
from private_distdd.errors import ConfigurationError, DataError
from private_distdd.synthetic.dataset import FORMAT, SyntheticDataset
from private_distdd.synthetic.mosaic import expand, mosaic, require_partition

INFO = DatasetInfo("people", 3, (5,), (1.0, 2.0, 1 / 3, 0.0, -4.0), (0.1, 20.0, 1 / 7, 1.0, 2.0))
TABLES = "private_distdd.synthetic/3"


def make(info: DatasetInfo = INFO, ipc: int = 2) -> SyntheticDataset:
    rows = torch.randn((info.num_classes * ipc, *info.shape), generator=torch.Generator().manual_seed(0))
    return SyntheticDataset(rows, torch.arange(info.num_classes).repeat_interleave(ipc), info)


def test_it_yields_rows() -> None:
    data = make()
    assert (data.ipc, len(data), data.partition) == (2, 6, 1)
    row, label = data[3]
    assert (row.shape, label) == ((5,), 1)
    assert torch.equal(data.expanded().images, data.images)


@given(st.integers(1, 6), st.integers(2, 4), st.integers(1, 3), st.integers(0, 100))
@settings(max_examples=20)
def test_saving_and_loading_is_bit_exact(
    tmp_path_factory: pytest.TempPathFactory, features: int, classes: int, ipc: int, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("s")
    rng = np.random.default_rng(seed)
    info = DatasetInfo("x", classes, (features,), tuple(rng.normal(size=features)), tuple(rng.random(features) + 0.1))
    data = make(info, ipc)
    data.images[0, 0] = 1e-45
    data.save(folder / "a")
    loaded = SyntheticDataset.load(folder / "a")
    assert torch.equal(loaded.images.view(torch.int32), data.images.view(torch.int32))
    assert torch.equal(loaded.labels, data.labels)
    assert (loaded.info, loaded.ipc) == (info, ipc)
    loaded.save(folder / "b")
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()


def test_the_header_says_table(tmp_path: Path) -> None:
    make().save(tmp_path / "s")
    with safe_open(tmp_path / "s", framework="pt") as file:
        header = json.loads(file.metadata()["json"])
    assert header == {"form": "table", "format": TABLES, "name": "people", "num_classes": 3}


def test_files_of_images_keep_their_bytes(tmp_path: Path) -> None:
    """Releases hold hashes of them."""
    images = (torch.arange(2 * 12, dtype=torch.float32) / 7).reshape(2, 3, 2, 2)
    info = DatasetInfo("x", 2, (3, 2, 2), (0.1, 0.2, 0.3), (0.5,))
    SyntheticDataset(images, torch.tensor([0, 1]), info).save(tmp_path / "whole")
    SyntheticDataset(images, torch.tensor([0, 1]), info, 2).save(tmp_path / "mosaics")
    found = [hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()[:16] for name in ("whole", "mosaics")]
    assert found == ["18670443b64281ca", "7e35ea9c13d3fddc"]  # as written before tables were known


HEADER = {"format": TABLES, "form": "table", "name": "people", "num_classes": 3}


@pytest.mark.parametrize(
    ("tensors", "header", "says"),
    [
        ({}, {"format": FORMAT}, "with form 'table'"),
        ({}, {"format": FORMAT, "form": None}, r"\[n, C, H, W\]"),
        ({}, {"form": None}, "with form 'table'"),
        ({}, {"form": "image"}, "with form 'table'"),
        ({}, {"form": ["table"]}, "with form 'table'"),
        ({}, {"partition": 1}, "with form 'table'"),
        ({}, {"partition": 2}, "with form 'table'"),
        ({}, {"format": "private_distdd.synthetic/2", "form": None, "partition": 2}, r"\[n, C, H, W\]"),
        ({}, {"format": [TABLES]}, "with form 'table'"),
        ({}, {"num_classes": 2}, "label 2 of example 4"),
        ({"images": torch.zeros(6, 5, 1, 1)}, {}, r"\[n, features\]"),
        ({"images": torch.zeros(6, 5, dtype=torch.float64)}, {}, "and tensors"),
        ({"images": torch.full((6, 5), float("inf"))}, {}, "NaN or infinite value"),
        ({"images": torch.zeros(6, 4)}, {}, "4 finite numbers"),
        ({"images": torch.zeros(6, 0)}, {}, "shape"),
        ({"std": torch.zeros(5, dtype=torch.float64)}, {}, "numbers > 0"),
        ({"mean": torch.zeros(5, 1, dtype=torch.float64)}, {}, r"mean \[5, 1\]"),
    ],
)
def test_damaged_files_are_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor], header: dict[str, Any], says: str
) -> None:
    path = tmp_path / "synthetic.safetensors"
    make().save(path)
    changed = {name: value for name, value in (HEADER | header).items() if value is not None}
    save_file(load_file(path) | tensors, path, {"json": json.dumps(changed)})
    with pytest.raises(DataError, match=says):
        SyntheticDataset.load(path)


def test_images_cannot_pass_for_a_table_nor_a_table_for_images(tmp_path: Path) -> None:
    info = DatasetInfo("x", 2, (1, 2, 2))
    SyntheticDataset(torch.zeros(2, 1, 2, 2), torch.tensor([0, 1]), info).save(tmp_path / "s")
    header = {"format": TABLES, "form": "table", "name": "x", "num_classes": 2}
    save_file(load_file(tmp_path / "s"), tmp_path / "s", {"json": json.dumps(header)})
    with pytest.raises(DataError, match=r"\[n, features\]"):
        SyntheticDataset.load(tmp_path / "s")


def test_the_picture_is_the_scatter_plot_of_what_is_stored(tmp_path: Path) -> None:
    data = make(ipc=4)
    grid = data.grid()
    assert (grid == scatter_plot(data.images.double().numpy(), 3)).all()
    data.preview(tmp_path / "preview.png")
    with Image.open(tmp_path / "preview.png") as picture:
        assert (np.array(picture) == grid).all()
    other = make(ipc=4)
    other.images[0] += 1
    assert (other.grid() != grid).any()


def test_tables_are_never_cut_into_parts() -> None:
    rows = make().images
    assert require_partition(1, (5,)) == 1
    assert expand(rows, 1) is rows
    assert mosaic(rows, 1) is rows
    for partition in (2, 5):
        with pytest.raises(ConfigurationError, match=f"partition = {partition} for rows of 5 features; allowed: 1"):
            SyntheticDataset(rows, make().labels, INFO, partition)
    for partition in (0, -1, True, 1.0, "1", None):
        with pytest.raises(ConfigurationError, match="partition"):
            require_partition(partition, (5,))  # type: ignore[arg-type]
