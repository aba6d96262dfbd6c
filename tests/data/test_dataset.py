"""Examples in memory: what is yielded, what is read from any torch data set, what is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from private_distdd.data.dataset import ImageDataset, check_labels, materialise
from private_distdd.data.info import DatasetInfo
from private_distdd.data.normalised import from_torch
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
        with pytest.raises(DataError, match="unknown shape"):
            materialise(empty)
    assert len(from_torch(Pairs(), num_classes=3, shape=(3, 4, 4))) == 0


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        ([(torch.zeros(1, 2, 2), 0), (torch.zeros(1, 2, 3), 0)], "example 1 has shape"),
        ([(torch.zeros(2, 2), 0)], r"\[n, C, H, W\]"),
        ([(torch.zeros(1, 2, 2), 0), (torch.tensor([[[float("inf")] * 2] * 2]), 0)], "image 1 has a NaN or infinite"),
        ([(torch.zeros(1, 2, 2, dtype=torch.uint8), 0)], "example 0 is torch.uint8"),
        ([("not an image", 0)], "example 0 is str"),
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


# Rows of a table


TABLE = DatasetInfo("table", 2, (3,))


def test_rows_of_a_table_are_examples_like_images() -> None:
    rows, labels = torch.randn((4, 3), generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1, 0])
    data = ImageDataset(rows.double(), labels, TABLE)
    row, label = data[2]
    assert (row.shape, row.dtype, label) == ((3,), torch.float32, 1)
    batch, _ = next(iter(DataLoader(data, batch_size=3)))
    assert batch.shape == (3, 3)
    for dataset in (data, TensorDataset(rows, labels), Subset(data, range(4)), Pairs(*zip(rows, labels, strict=True))):
        found = materialise(dataset, (3,))
        assert torch.equal(found[0], rows)
        assert torch.equal(found[1], labels)
    assert materialise(Pairs(), (3,))[0].shape == (0, 3)
    with pytest.raises(DataError, match=r"\[n, 4\]"):
        materialise(data, (4,))


@pytest.mark.parametrize(
    ("rows", "labels", "says"),
    [
        (torch.zeros(2, 4), torch.tensor([0, 1]), r"\[n, 3\]"),
        (torch.zeros(2, 1, 3), torch.tensor([0, 1]), r"\[n, 3\]"),
        (torch.zeros(2, 1, 3, 1), torch.tensor([0, 1]), r"\[n, 3\]"),
        (torch.zeros(3), torch.tensor([0, 1]), r"\[n, 3\]"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.tensor([0, 1]), "torch.int64"),
        (torch.tensor([[0.0, 1, 2], [0, math.nan, 1]]), torch.tensor([0, 1]), "row 1 has a NaN or infinite value"),
        (torch.zeros(2, 3), torch.tensor([0, 2]), "label 2 of example 1"),
        (torch.zeros(2, 3), torch.tensor([0]), "2 rows and 1 labels"),
    ],
)
def test_bad_rows_are_refused(rows: torch.Tensor, labels: torch.Tensor, says: str) -> None:
    with pytest.raises(DataError, match=says):
        ImageDataset(rows, labels, TABLE)


def test_from_torch_takes_rows_of_any_numbers() -> None:
    pairs = Pairs((torch.tensor([40.0, -1.5]), 0), (torch.tensor([1e6, 3.0]), 1))
    plain = from_torch(pairs, num_classes=2)
    assert plain.info == DatasetInfo("own", 2, (2,), (0.0,), (1.0,))
    assert plain.images.tolist() == [[40.0, -1.5], [1e6, 3.0]]
    scaled = from_torch(pairs, num_classes=2, name="people", mean=[40, 0], std=[10, 0.5])
    assert scaled.images[0].tolist() == [0.0, -3.0]
    assert scaled.info == DatasetInfo("people", 2, (2,), (40.0, 0.0), (10.0, 0.5))
    assert len(from_torch(Pairs(), num_classes=2, shape=(5,))) == 0
    with pytest.raises(DataError, match="2 finite numbers"):
        from_torch(pairs, num_classes=2, mean=[1.0, 2.0, 3.0])
    with pytest.raises(DataError, match="example 1 has shape"):
        materialise(Pairs((torch.zeros(2), 0), (torch.zeros(3), 0)))


def test_check_labels_returns_int64() -> None:
    assert check_labels(torch.tensor([0, 2], dtype=torch.uint8), 3).dtype == torch.int64
    assert check_labels(torch.empty(0, dtype=torch.int32), 3).shape == (0,)
