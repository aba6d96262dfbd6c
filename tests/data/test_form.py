"""Forms of examples: what follows from a shape, and the JSON that hashes rest on."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from private_distdd.data.form import form_of, forms
from private_distdd.data.image import ImageForm
from private_distdd.data.info import DatasetInfo
from private_distdd.data.table import TableForm
from private_distdd.errors import ConfigurationError, DataError
from private_distdd.limits import FEATURES
from private_distdd.storage import to_json

FIXTURES = Path(__file__).parents[1] / "fixtures"
REAL = st.floats(-1e6, 1e6, allow_nan=False)


@st.composite
def infos(draw: st.DrawFn) -> DatasetInfo:
    """Any info: images or tables, with one constant for all lanes or one for each."""
    shape = draw(st.one_of(st.tuples(*[st.integers(1, 5)] * 3), st.tuples(st.integers(1, 40))))
    lanes = draw(st.sampled_from([1, shape[0]]))
    mean = draw(st.lists(REAL, min_size=lanes, max_size=lanes))
    std = draw(st.lists(st.floats(1e-3, 1e3), min_size=lanes, max_size=lanes))
    return DatasetInfo("drawn", draw(st.integers(2, 9)), shape, tuple(mean), tuple(std))


def test_a_shape_s_length_says_its_form() -> None:
    assert form_of((1, 8, 6)) == ImageForm((1, 8, 6))
    assert form_of([13]) == TableForm((13,))
    assert [form.rank for form in forms()] == [1, 3]
    assert (form_of((3, 8, 6)).words, form_of((1, 1, 1)).words) == (
        "8 by 6 pixels, 3 channels",
        "1 by 1 pixels, 1 channel",
    )
    assert (form_of((13,)).words, form_of((1,)).words) == ("13 features", "1 feature")


@pytest.mark.parametrize("shape", [(), (2, 2), (1, 2, 3, 4), (0,), (-1,), (1.0,), (True,), ("a",), "a", None, 13, {13}])
def test_other_shapes_are_refused(shape: Any) -> None:
    with pytest.raises(DataError, match=r"\(channels, height, width\) or \(features,\), each >= 1"):
        form_of(shape)
    with pytest.raises(DataError, match="shape"):
        DatasetInfo("x", 2, shape)


def test_tables_have_a_largest_size() -> None:
    assert DatasetInfo("x", 2, (FEATURES,)).mean == (0.0,) * FEATURES
    for features in (FEATURES + 1, 2**70):
        with pytest.raises(DataError, match=f"at most {FEATURES} features"):
            DatasetInfo("x", 2, (features,))


def test_left_out_constants_are_the_form_s_usual_ones() -> None:
    image, table = DatasetInfo("x", 2, (2, 3, 3)), DatasetInfo("x", 2, (3,))
    assert (image.mean, image.std) == ((0.5, 0.5), (0.5, 0.5))
    assert (table.mean, table.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert dataclasses.replace(table, name="y").std == table.std
    assert DatasetInfo("x", 2, (3,), (1.0,), (1.0, 2.0, 3.0)).mean == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("field", ["mean", "std"])
@pytest.mark.parametrize("values", [(), (1.0, 1.0), (math.nan,), (math.inf,), ("1",), (True,), 1.0, None])
def test_a_table_s_constants_are_one_or_one_a_feature(field: str, values: Any) -> None:
    with pytest.raises(DataError, match="3 finite numbers"):
        DatasetInfo("x", 2, (3,), **{field: values})
    with pytest.raises(DataError, match="finite numbers"):
        DatasetInfo("x", 2, (3, 4, 4), **{field: values})
    with pytest.raises(DataError, match="numbers > 0"):
        DatasetInfo("x", 2, (3,), std=(1.0, 0.0, 1.0))


def test_the_json_of_images_is_what_it_always_was() -> None:
    """Releases, ledgers and checkpoints hold hashes of these bytes."""
    info = DatasetInfo("digits", 10, (1, 8, 8))
    assert json.dumps(info.to_json()) == (
        '{"name": "digits", "num_classes": 10, "mean": [0.5], "std": [0.5], "image_shape": [1, 8, 8]}'
    )
    colour = DatasetInfo("pets", 3, (3, 8, 6), (0.4914, 0.1, 1 / 3), (0.2023, 0.3, 0.7))
    assert to_json(colour.to_json()) == (
        '{"image_shape":[3,8,6],"mean":[0.4914,0.1,0.3333333333333333],"name":"pets","num_classes":3,'
        '"std":[0.2023,0.3,0.7]}'
    )
    for card in sorted(FIXTURES.glob("release-*/card.json")):
        data = json.loads(card.read_text())["data"]
        assert to_json(DatasetInfo.from_json(data).to_json()) == to_json(data)


def test_the_json_of_tables_has_a_shape() -> None:
    info = DatasetInfo("t", 2, (2,), (1.0, 2.0))
    assert to_json(info.to_json()) == '{"mean":[1.0,2.0],"name":"t","num_classes":2,"shape":[2],"std":[1.0,1.0]}'
    assert DatasetInfo.from_json(json.loads(to_json(info.to_json()))) == info


@pytest.mark.parametrize(
    "change",
    [
        {"image_shape": [2]},
        {"image_shape": [1, 2, 2]},
        {"shape": [1, 2, 2]},
        {"shape": None},
        {"form": "table"},
        {"mean": []},
        {"mean": None},
    ],
)
def test_a_record_says_its_shape_once_and_under_its_form_s_name(change: dict[str, Any]) -> None:
    record = DatasetInfo("t", 2, (2,)).to_json()
    with pytest.raises(DataError):
        DatasetInfo.from_json(record | change)
    del record["shape"]
    for key in ("shape", "image_shape"):
        for shape in ([2, 2], [2], [1, 2, 2]):
            if (key, len(shape)) not in (("shape", 1), ("image_shape", 3)):
                with pytest.raises(DataError):
                    DatasetInfo.from_json(record | {key: shape})
    with pytest.raises(DataError, match="fields"):
        DatasetInfo.from_json(record)


@given(infos())
def test_every_info_survives_json(info: DatasetInfo) -> None:
    record = json.loads(to_json(info.to_json()))
    assert set(record) == {"name", "num_classes", "mean", "std", info.form.key}
    again = DatasetInfo.from_json(record)
    assert (again, hash(again)) == (info, hash(info))
    assert to_json(again.to_json()) == to_json(record)


@given(infos(), st.integers(0, 1000))
def test_normalising_works_lane_by_lane_and_comes_back(info: DatasetInfo, seed: int) -> None:
    raw = torch.randn((3, *info.shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = info.normalise(raw)
    assert found.dtype == torch.float32
    for lane, (mean, std) in enumerate(zip(info.mean, info.std, strict=True)):
        expected = (raw[:, lane] - mean) / std
        assert torch.allclose(found[:, lane].double(), expected, rtol=1e-4, atol=1e-4 * max(1, abs(mean)) / std)
    scale = max(map(abs, info.mean)) + 1
    assert torch.allclose(info.denormalise(found).double(), raw, atol=1e-5 * scale)


def test_images_are_between_black_and_white_and_tables_have_no_bounds() -> None:
    info = DatasetInfo("x", 2, (2, 4, 4), (0.25, 0.5), (0.5, 0.25))
    assert info.bounds is not None
    black, white = info.bounds
    assert black.shape == white.shape == (2, 1, 1)
    assert black.flatten().tolist() == [-0.5, -2.0]
    assert white.flatten().tolist() == [1.5, 2.0]
    assert DatasetInfo("x", 2, (2,)).bounds is None


def test_only_images_have_neighbours() -> None:
    form_of((1, 4, 4)).require_spatial("pool = 2", "1")
    with pytest.raises(ConfigurationError, match="pool = 2 for rows of 13 features; allowed: 1"):
        form_of((13,)).require_spatial("pool = 2", "1")
    info, rows = DatasetInfo("x", 2, (13,)), torch.zeros(2, 13)
    with pytest.raises(ConfigurationError, match="augment = True for rows of 13 features"):
        info.augment(rows, torch.Generator())
