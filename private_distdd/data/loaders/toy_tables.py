"""scikit-learn's small tables: wine, breast_cancer and iris; embedded, no download."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from private_distdd.data.info import DatasetInfo
from private_distdd.data.loaders.register import Loaded, Source, Wanted, register_source
from private_distdd.data.normalised import split_off_test


@dataclass(frozen=True)
class _Table:
    """One of them: how scikit-learn's loader is called, its classes, and one constant of each kind a feature.

    The tables are published, and so are these numbers: they are copied, as literals, from the summaries that UCI and
    scikit-learn print beside the tables.  Nothing here is computed from the data, and no table of yours may do it so.
    """

    loader: str
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


# fmt: off
_WINE = _Table(  # published means and standard deviations
    "load_wine", 3,
    (13.0, 2.34, 2.36, 19.5, 99.7, 2.29, 2.03, 0.36, 1.59, 5.1, 0.96, 2.61, 746.0),
    (0.8, 1.12, 0.27, 3.3, 14.3, 0.63, 1.00, 0.12, 0.57, 2.3, 0.23, 0.71, 315.0),
)
_IRIS = _Table("load_iris", 3, (5.84, 3.05, 3.76, 1.20), (0.83, 0.43, 1.76, 0.76))  # likewise
_RANGES = (  # published least and greatest values of breast_cancer, whose means and deviations are not
    (6.981, 28.11), (9.71, 39.28), (43.79, 188.5), (143.5, 2501.0), (0.053, 0.163), (0.019, 0.345), (0.0, 0.427),
    (0.0, 0.201), (0.106, 0.304), (0.05, 0.097), (0.112, 2.873), (0.36, 4.885), (0.757, 21.98), (6.802, 542.2),
    (0.002, 0.031), (0.002, 0.135), (0.0, 0.396), (0.0, 0.053), (0.008, 0.079), (0.001, 0.03), (7.93, 36.04),
    (12.02, 49.54), (50.41, 251.2), (185.2, 4254.0), (0.071, 0.223), (0.027, 1.058), (0.0, 1.252), (0.0, 0.291),
    (0.156, 0.664), (0.055, 0.208),
)
# fmt: on
_TABLES = {
    "breast_cancer": _Table(  # most values are small against the greatest: a quarter of the range for the middle
        "load_breast_cancer",
        2,
        tuple(low + (high - low) / 4 for low, high in _RANGES),
        tuple((high - low) / 6 for low, high in _RANGES),
    ),
    "iris": _IRIS,
    "wine": _WINE,
}


def load_toy_table(wanted: Wanted) -> Loaded:
    """Rows of float32 features; of each class every fourth, in file order, is the test set."""
    import sklearn.datasets  # heavy, and not needed by the other sources

    table = _TABLES[wanted.name]
    source = getattr(sklearn.datasets, table.loader)()
    given = {"mean": table.mean, "std": table.std, **wanted.constants}
    info = DatasetInfo(wanted.name, table.num_classes, (len(table.mean),), classes=(), **given)
    return split_off_test(torch.from_numpy(source.data), torch.from_numpy(source.target), info)


register_source(Source(", ".join(map(repr, _TABLES)), load_toy_table, published=tuple(_TABLES)))
