"""The scatter plot of a table: where its dots are, in which colour, and that it never depends on what it should not."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from private_distdd.data.scatter import _MARGIN, _SIDE, scatter_plot, telling_features

FRAME = 200


def dots(picture: np.ndarray) -> dict[int, np.ndarray]:
    """Of each colour beside white and the frame's grey, its pixels [n, 2] as (row, column)."""
    packed = picture.astype(np.int64) @ [1 << 16, 1 << 8, 1]
    colours = set(np.unique(packed).tolist()) - {0xFFFFFF, FRAME * 0x10101}
    return {colour: np.argwhere(packed == colour) for colour in colours}


def test_dots_are_where_they_belong_one_colour_a_class() -> None:
    corners = np.array([[0.0, 0.0], [10.0, 4.0], [5.0, 1.0]])  # one row of each of three classes
    picture = scatter_plot(corners, 3)
    assert picture.dtype == np.uint8
    assert picture.shape == (_SIDE, _SIDE, 3)
    found = dots(picture)
    assert len(found) == 3
    first, second = telling_features(corners, 3)
    span = _SIDE - 1 - 2 * _MARGIN
    expected = {
        (
            round(_SIDE - 1 - _MARGIN - span * (row[second] - corners[:, second].min()) / np.ptp(corners[:, second])),
            round(_MARGIN + span * (row[first] - corners[:, first].min()) / np.ptp(corners[:, first])),
        )
        for row in corners
    }
    assert {tuple(np.rint(pixels.mean(axis=0)).astype(int)) for pixels in found.values()} == expected
    assert len({len(pixels) for pixels in found.values()}) == 1  # dots of one size
    assert (picture[_MARGIN // 2, _SIDE // 2] == FRAME).all()


def test_the_axes_tell_classes_apart() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((40, 6))
    rows[:20, 4] += 9  # by far
    rows[:20, 1] -= 3
    assert telling_features(rows, 2) == [4, 1]
    assert telling_features(rows * 1e30, 2) == [4, 1]
    shifted = rows.copy()
    shifted[:, 0] *= 1e6  # a large scale alone tells nothing
    assert telling_features(shifted, 2) == [4, 1]


def test_no_class_covers_another() -> None:
    """Dots that lie on each other are drawn in turns: class 0's second covers class 1's first, and so the other way."""
    a, b = [[0.0, 0], [1, 1]], [[1.0, 1], [0, 0]]
    crossed = dots(scatter_plot(np.array(a + b), 2))
    assert len(crossed) == 2
    assert len({len(pixels) for pixels in crossed.values()}) == 1


@given(st.integers(2, 5), st.integers(1, 6), st.integers(1, 5), st.data())
@settings(max_examples=40)
def test_every_finite_set_has_a_picture_that_scale_and_place_do_not_change(
    classes: int, ipc: int, features: int, data: st.DataObject
) -> None:
    values = st.integers(-1000, 1000).map(float)
    rows = data.draw(hnp.arrays(np.float64, (classes * ipc, features), elements=values))
    picture = scatter_plot(rows, classes)
    assert picture.shape == (_SIDE, _SIDE, 3)
    assert 1 <= len(dots(picture)) <= classes
    inside = (picture != 255).any(axis=2)
    assert not inside[: _MARGIN // 2].any()
    assert not inside[:, : _MARGIN // 2].any()
    assert (scatter_plot(rows * 4, classes) == picture).all()  # a power of two: exact


@pytest.mark.parametrize("value", [0.0, -7.5, 3e38])
@pytest.mark.parametrize("features", [1, 2, 7])
def test_sets_without_spread_are_shown_in_the_middle(value: float, features: int) -> None:
    found = dots(scatter_plot(np.full((4, features), value), 2))
    assert len(found) == (2 if features == 1 else 1)  # a single feature has its classes one above the other
    if features > 1:
        (pixels,) = found.values()
        assert abs(pixels.mean(axis=0) - (_SIDE - 1) / 2).max() <= 1


def test_the_picture_is_the_same_everywhere() -> None:
    """Pinned: whoever verifies a release draws the picture anew, so another picture breaks the releases there are."""
    rows = (np.arange(30)[:, None] * 37 + np.arange(13) * 101 + 11) ** 2 % 97 / 8
    rows[:10, 3] += 12
    rows[10:20, 7] -= 12
    picture = scatter_plot(rows, 3)
    assert hashlib.sha256(picture.tobytes()).hexdigest()[:16] == "349181b6391c849f"
