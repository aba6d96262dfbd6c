"""Names, paths and options: what has them, and what has not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.data.load import load_dataset, published_names
from private_distdd.data.loaders import register
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


def test_published_names_are_those_whose_class_list_is_published() -> None:
    """What may be distilled with privacy without saying the classes."""
    assert published_names() == ("digits", "mnist", "fashionmnist", "cifar10", "breast_cancer", "iris", "wine")


def test_a_new_source_is_one_registration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(register, "_SOURCES", list(register._SOURCES))
    info = DatasetInfo("toy", 2, (3,))
    both = (ImageDataset(torch.zeros(2, 3), torch.tensor([0, 1]), info),) * 2
    seen: list[register.Wanted] = []

    def load(wanted: register.Wanted) -> register.Loaded:
        seen.append(wanted)
        return both

    (tmp_path / "a.toy").write_text("")
    recognises = {"recognises": lambda path: path.suffix == ".toy", "options": frozenset({"num_classes"})}
    register.register_source(register.Source("'toy' or a .toy", load, published=("toy",), **recognises))
    assert "toy" in published_names()
    assert load_dataset("toy") is both
    assert load_dataset(tmp_path / "a.toy", num_classes=2, root="r", mean=1) is both
    assert (seen[1].num_classes, seen[1].root, seen[1].constants) == (2, "r", {"mean": (1,)})
    with pytest.raises(DataError, match="classes"):
        load_dataset("toy", classes=["a", "b"])
    with pytest.raises(DataError, match=r"'toy' or a \.toy"):
        load_dataset("nothing")


def test_the_sites_of_a_federation_can_give_their_files_one_name(tmp_path: Path) -> None:
    for site in ("a", "b"):
        (tmp_path / f"{site}.csv").write_text("x,y\n1,0\n2,1\n")
    infos = [load_dataset(tmp_path / f"{site}.csv", name="people")[0].info for site in ("a", "b")]
    assert infos[0] == infos[1] == DatasetInfo("people", 2, (1,))
    with pytest.raises(DataError, match="name = 'people'"):
        load_dataset("digits", name="people")
