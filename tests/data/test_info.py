"""What is public about a data set: constants, JSON, limits, refusals."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc
from typing import Any

import pytest
import torch

from private_distdd.data.info import DatasetInfo
from private_distdd.errors import DataError
from private_distdd.wire.run import Run

INFO = DatasetInfo("tiny", 3, (1, 2, 2))


def test_info_repeats_constants_per_channel_and_survives_json() -> None:
    info = DatasetInfo("x", 4, (3, 5, 6), std=(0.1, 0.2, 0.3))
    assert info.mean == (0.5, 0.5, 0.5)
    assert DatasetInfo.from_json(json.loads(json.dumps(info.to_json()))) == info
    assert hash(info) == hash(dataclasses.replace(info))
    pixels = torch.rand((2, 3, 5, 6), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(info.normalise(pixels)[:, 1], (pixels[:, 1] - 0.5) / 0.2)
    assert torch.allclose(info.denormalise(info.normalise(pixels)), pixels, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": ""}, "non-empty"),
        ({"num_classes": 1}, "at least 2"),
        ({"num_classes": True}, "at least 2"),
        ({"shape": (1, 0, 2)}, "each >= 1"),
        ({"shape": (2, 2)}, "channels, height, width"),
        ({"mean": (0.1, 0.2)}, "1 finite numbers"),
        ({"mean": (float("nan"),)}, "finite"),
        ({"std": (0.0,)}, "numbers > 0"),
    ],
)
def test_bad_info_is_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises(DataError, match=says):
        dataclasses.replace(INFO, **change)
    with pytest.raises(DataError, match="fields"):
        DatasetInfo.from_json({"name": "x"})


@pytest.mark.parametrize(
    "changes",
    [
        {"image_shape": (2**26, 1, 1)},
        {"image_shape": (1, 2**20, 2**20)},
        {"num_classes": 2**40},
        {"name": "x" * 10**6},
        {"image_shape": (2**70, 1, 1)},
    ],
)
def test_a_few_bytes_cannot_stand_for_much(changes: dict[str, Any]) -> None:
    """Constants are repeated for each channel: 265 bytes once took 88 s and 7 GB."""
    record = DatasetInfo("x", 2, (1, 8, 8)).to_json() | changes
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as caught:
            DatasetInfo.from_json(record)
        assert len(str(caught.value)) < 2000
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()


def test_names_of_classes_are_kept_and_their_absence_leaves_no_trace() -> None:
    named = dataclasses.replace(INFO, classes=["healthy", "ill", "\u03b1"])
    assert named.classes == ("healthy", "ill", "\u03b1")
    assert DatasetInfo.from_json(json.loads(json.dumps(named.to_json()))) == named
    assert (named.class_name(1), INFO.class_name(1)) == ("ill", "1")
    numbers = dataclasses.replace(INFO, classes=("0", "1", "2"))
    assert numbers == INFO
    # The very bytes that clients pinned before there were names.
    old = b'{"info":{"image_shape":[1,2,2],"mean":[0.5],"name":"tiny","num_classes":3,"std":[0.5]},"kind":"run",'
    assert Run("r", INFO, None).to_bytes() == old + b'"plan":null,"run_id":"r"}'
    assert Run.from_bytes(Run("r", named, None).to_bytes()).info == named


@pytest.mark.parametrize(
    "classes", [("a", "b"), ("a", "b", "b"), ("a", "b", ""), ("a", "b", "c\n"), "abc", ("a", "b", "c" * 2**14), 3]
)
def test_what_is_no_list_of_names_is_refused(classes: Any) -> None:
    with pytest.raises(DataError, match="classes"):
        dataclasses.replace(INFO, classes=classes)
    with pytest.raises(DataError, match="classes"):
        DatasetInfo.from_json(INFO.to_json() | {"classes": classes})


def test_one_info_is_written_one_way() -> None:
    for twice in ([], ["0", "1", "2"]):
        with pytest.raises(DataError, match="classes = "):
            DatasetInfo.from_json(INFO.to_json() | {"classes": twice})
