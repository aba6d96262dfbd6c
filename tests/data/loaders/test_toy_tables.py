"""scikit-learn's tables: sizes, splits, and constants that are written down, not computed."""

from __future__ import annotations

import ast
import inspect
import re

import pytest
import sklearn.datasets
import torch

from private_distdd.data.info import DatasetInfo
from private_distdd.data.load import load_dataset
from private_distdd.data.loaders import toy_tables
from private_distdd.errors import DataError

SIZES = {"wine": (178, 13, 3), "breast_cancer": (569, 30, 2), "iris": (150, 4, 3)}


@pytest.mark.parametrize("name", SIZES)
def test_tables_are_whole_split_alike_and_on_a_usable_scale(name: str) -> None:
    count, features, classes = SIZES[name]
    train, test = load_dataset(name)
    assert train.info == test.info
    assert (train.info.name, train.info.num_classes, train.info.shape) == (name, classes, (features,))
    source = getattr(sklearn.datasets, f"load_{name}")()
    rows = torch.cat([train.images, test.images])
    labels = torch.cat([train.labels, test.labels])
    assert rows.shape == (count, features)
    expected = train.info.normalise(torch.from_numpy(source.data))
    kept = torch.ones(count, dtype=torch.bool)
    for label in range(classes):
        of_class = (torch.from_numpy(source.target) == label).nonzero().squeeze(1)
        kept[of_class[3::4]] = False
        assert int((test.labels == label).sum()) == len(of_class) // 4
    assert torch.equal(train.images, expected[kept])
    assert torch.equal(test.images, expected[~kept])
    assert torch.equal(labels, torch.from_numpy(source.target)[torch.cat([kept.nonzero(), (~kept).nonzero()])[:, 0]])
    assert rows.mean(dim=0).abs().max() < 1.5
    assert 0.3 < rows.std(dim=0).min() < rows.std(dim=0).max() < 2


@pytest.mark.parametrize("name", SIZES)
def test_constants_are_those_that_are_printed_beside_the_table(name: str) -> None:
    """A6: literals, taken from the published summary, which scikit-learn ships as text."""
    text = getattr(sklearn.datasets, f"load_{name}")().DESCR
    rows = [line for line in text.split("\n") if re.match(r"^\S.*:\s+-?[\d.]+\s+[\d.]+", line)]
    numbers = [[float(number) for number in line.rsplit(":", 1)[1].split()[:4]] for line in rows]
    info = load_dataset(name)[0].info
    if name == "breast_cancer":
        assert [list(pair) for pair in toy_tables._RANGES] == [row[:2] for row in numbers]
        assert info.mean[0] == pytest.approx(6.981 + (28.11 - 6.981) / 4)
    else:
        assert list(info.mean) == [row[2] for row in numbers]
        assert list(info.std) == [row[3] for row in numbers]


def test_nothing_is_computed_from_the_rows() -> None:
    names = {
        node.attr for node in ast.walk(ast.parse(inspect.getsource(toy_tables))) if isinstance(node, ast.Attribute)
    }
    assert not names & {"max", "min", "amax", "amin", "aminmax", "quantile", "median", "var", "fit"}
    assert {"data", "target", "mean", "std"} <= names  # it would see them


def test_own_constants_replace_the_published_ones() -> None:
    train, _ = load_dataset("iris", mean=0, std=1)
    assert train.info == DatasetInfo("iris", 3, (4,))
    assert train.images.min() > 0.05
    for option in ({"num_classes": 3}, {"classes": ["a", "b", "c"]}, {"label": "class"}, {"test": "other.csv"}):
        with pytest.raises(DataError, match=next(iter(option))):
            load_dataset("iris", **option)  # type: ignore[arg-type]
