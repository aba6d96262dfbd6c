"""torchvision's files: axes and published constants."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torchvision

from private_distdd.data.info import DatasetInfo
from private_distdd.data.load import load_dataset


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
