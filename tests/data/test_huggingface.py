"""Hugging Face's data sets by what they offer: a small stand-in, and the real library where it is installed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from private_distdd import from_huggingface
from private_distdd.data.info import DatasetInfo
from private_distdd.errors import DataError

PICTURES = [Image.new("RGB", (6, 4), (51 * i, 0, 0)) for i in range(4)]


class Split:
    """As much of a split as is asked for."""

    def __init__(self, columns: dict[str, list[Any]], names: list[str] | None) -> None:
        self.columns, self.column_names = columns, list(columns)
        self.features = {"image": object(), "label": SimpleNamespace(names=names) if names else object()}

    def __len__(self) -> int:
        return len(self.columns["label"])

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: column[index] for name, column in self.columns.items()}


def split(images: list[Any], names: list[str] | None = None) -> Split:
    return Split({"image": images, "label": [0, 1, 0, 1]}, names)


def test_pictures_and_the_declared_classes() -> None:
    own = from_huggingface(split(PICTURES, ["healthy", "ill"]), name="scans")
    assert own.info == DatasetInfo("scans", 2, (3, 4, 6), classes=("healthy", "ill"))
    assert own.labels.tolist() == [0, 1, 0, 1]
    assert own.info.denormalise(own.images)[:, 0, 0, 0].tolist() == pytest.approx([0, 0.2, 0.4, 0.6])
    small = from_huggingface(split(PICTURES), num_classes=3, channels=1, size=2)
    assert small.info == DatasetInfo("own", 3, (1, 2, 2))


@pytest.mark.parametrize("kind", ["array", "list", "tensor", "floats", "channels first"])
def test_whatever_a_column_holds(kind: str) -> None:
    arrays = [np.asarray(picture) for picture in PICTURES]
    changes: dict[str, Any] = {
        "array": lambda a: a,
        "list": lambda a: (a / 255).transpose(2, 0, 1).tolist(),
        "tensor": lambda a: torch.from_numpy(a.copy()),
        "floats": lambda a: torch.from_numpy(a.copy()).permute(2, 0, 1) / 255,
        "channels first": lambda a: a.transpose(2, 0, 1),
    }
    own = from_huggingface(split([changes[kind](array) for array in arrays]), num_classes=2)
    assert torch.allclose(own.images, from_huggingface(split(PICTURES), num_classes=2).images, atol=1e-6)


def test_a_transform_of_torchvision_comes_before_everything() -> None:
    transform = v2.Compose([v2.ToImage(), v2.CenterCrop(4), v2.Grayscale(), v2.ToDtype(torch.float32, scale=True)])
    own = from_huggingface(split(PICTURES), num_classes=2, transform=transform)
    assert own.info.shape == (1, 4, 4)
    assert type(own.images) is torch.Tensor
    assert own.info.denormalise(own.images)[3].unique().tolist() == pytest.approx([0.6 * 0.2989], abs=0.01)


def test_what_is_no_split_is_refused() -> None:
    for wrong, says in (
        ({"train": split(PICTURES)}, "splits \\['train'\\]"),
        (iter([]), "one split"),
        (Split({"label": [0]}, None), "column 'image'"),
        (split(PICTURES), "without a ClassLabel"),
        (split(PICTURES, ["one"]), "num_classes = 1"),
        (split([picture.convert("P") for picture in PICTURES], ["a", "b"]), "mode P"),
    ):
        with pytest.raises(DataError, match=says):
            from_huggingface(wrong)
    with pytest.raises(DataError, match="one way"):
        from_huggingface(split(PICTURES), num_classes=2, size=2, transform=v2.ToImage())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_the_real_library() -> None:
    datasets = pytest.importorskip("datasets", exc_type=ImportError)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["healthy", "ill"])})
    real = datasets.Dataset.from_dict({"image": PICTURES, "label": [0, 1, 0, 1]}, features=features)
    own, stand_in = from_huggingface(real), from_huggingface(split(PICTURES, ["healthy", "ill"]))
    assert own.info == stand_in.info
    assert torch.equal(own.images, stand_in.images)
    assert torch.equal(own.labels, stand_in.labels)
    as_tensors = from_huggingface(real.with_format("torch"))
    assert torch.equal(as_tensors.images, own.images)
    with pytest.raises(DataError, match="one split"):
        from_huggingface(datasets.DatasetDict({"train": real}))
    with pytest.raises(DataError, match="no stream"):
        from_huggingface(real.to_iterable_dataset())
