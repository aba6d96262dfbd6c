"""A picture of rows of a table: a scatter plot, one colour a class.

Whoever verifies a release draws the plot anew and compares, so that it must come out the same on every machine.  Hence
there are no principal directions here, whose signs and, where two are equally long, whose very choice depend on a
library's rounding: the axes are two of the features, and every step is exact or rounded as IEEE 754 says.
"""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray

_SIDE, _MARGIN, _RADIUS = 480, 16, 5  # pixels: of the picture, around the plot, of a dot
_FRAME = 200  # the grey of the frame
_GOLDEN = 0.618033988749895  # of the colour circle between one class and the next: neighbours are far apart


def scatter_plot(rows: NDArray[np.float64], num_classes: int) -> NDArray[np.uint8]:
    """Dots on white in a grey frame, uint8 [480, 480, 3].

    The axes are the two features that tell the rows' classes apart best (`telling_features`), each from its least to
    its greatest value; the better one is horizontal.  A table of one feature has its classes one above the other.

    Args:
        rows: finite, [num_classes * m, features]: m >= 1 of class 0, then of class 1, and so on.
        num_classes: how many there are.
    """
    labels = np.repeat(np.arange(num_classes), len(rows) // num_classes)
    first, *others = telling_features(rows, num_classes)
    vertical = rows[:, others[0]] if others else labels.astype(np.float64)
    columns, heights = _places(rows[:, first]), _places(vertical)
    canvas = np.full((_SIDE, _SIDE, 3), 255, np.uint8)
    edge = _MARGIN // 2
    canvas[[edge, -1 - edge], edge : _SIDE - edge] = canvas[edge : _SIDE - edge, [edge, -1 - edge]] = _FRAME
    # The first of every class lies below the second of every class, and so on: no class covers another as a whole.
    order = np.argsort(np.argsort(np.tile(np.arange(len(rows) // num_classes), num_classes), kind="stable"))
    uppermost = np.full((_SIDE, _SIDE), -1)
    for down in range(-_RADIUS, _RADIUS + 1):
        for right in range(-_RADIUS, _RADIUS + 1):
            if down**2 + right**2 <= _RADIUS**2:
                np.maximum.at(uppermost, (_SIDE - 1 - heights + down, columns + right), order)
    owner = np.empty(len(rows), np.int64)
    owner[order] = labels
    dots = uppermost >= 0
    canvas[dots] = _colours(num_classes)[owner[uppermost[dots]]]
    return canvas


def telling_features(rows: NDArray[np.float64], num_classes: int) -> list[int]:
    """The two features (or the only one) in which classes differ most, seen against the spread within each.

    By Fisher's ratio: the squares between the classes' means over the squares within classes; of equals the first.
    """
    scale = np.abs(rows).max(axis=0)
    groups = (rows / np.where(scale > 0, scale, 1.0)).reshape(num_classes, -1, rows.shape[1])
    means = groups.mean(axis=1)
    within = ((groups - means[:, None]) ** 2).sum(axis=(0, 1)) / groups.shape[1]
    between = ((means - means.mean(axis=0)) ** 2).sum(axis=0)
    ratio = between / (between + within + 1e-30)
    return [int(feature) for feature in np.argsort(-ratio, kind="stable")[:2]]


def _places(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Pixels from `_MARGIN` to `_SIDE` - 1 - `_MARGIN`, in proportion; the middle where all values are equal."""
    least, most = values.min(), values.max()
    share = (values - least) / (most - least) if most > least else np.full(len(values), 0.5)
    places: NDArray[np.int64] = _MARGIN + np.rint(share * (_SIDE - 1 - 2 * _MARGIN)).astype(np.int64)
    return places


def _colours(num_classes: int) -> NDArray[np.uint8]:
    """One a class, uint8 [num_classes, 3]."""
    shades = [colorsys.hsv_to_rgb(c * _GOLDEN % 1, 0.8, 0.85 if c % 2 == 0 else 0.6) for c in range(num_classes)]
    colours: NDArray[np.uint8] = np.rint(np.array(shades) * 255).astype(np.uint8)
    return colours
