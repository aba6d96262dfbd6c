"""Names, paths and options: what has them, and what has not."""

from __future__ import annotations

from pathlib import Path

import pytest

from private_distdd.data.load import load_dataset
from private_distdd.errors import DataError


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
