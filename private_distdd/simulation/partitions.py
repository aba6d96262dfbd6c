"""Clients by a partitioner of flwr-datasets, which is never imported here: what a partitioner offers is enough."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from private_distdd.errors import ConfigurationError, DataError
from private_distdd.simulation.splits import MakeClient, Whole
from private_distdd.site.client import Client

_ROW, _LABEL = "row", "label"


def partition_with(
    partitioner: Any,
    dataset: Dataset[Any],
    *,
    columns: Mapping[str, Sequence[Any]] | None = None,
    make_client: MakeClient = Client,
) -> list[Client]:
    """Clients as a partitioner of flwr-datasets makes them, such as `PathologicalPartitioner(10, "label", 2)`.

    The partitioner is given a table with a row for each example: its number ("row"), its class ("label", which
    `partition_by` may name), and `columns`.  Images are not in it, and are not copied to it.

    Args:
        partitioner: fresh; has `dataset`, which can be set once to a `datasets.Dataset`, `num_partitions` and
            `load_partition(i)`, the rows of client i.
        dataset: map-style data set of (image, label) that carries its public constants.
        columns: more that `partition_by` may name, by name: a value for each example, such as who wrote a digit.
        make_client: see `dirichlet_split`.

    Returns:
        A client for each partition, in their order; examples that no partition has are at none.

    Raises:
        ConfigurationError: this is no fresh partitioner, Hugging Face's `datasets` (which flwr-datasets brings) is
            missing, a column is as long as no data set, or the partitioner refuses the data.
        DataError: the data set carries no public constants or is empty, or two clients would hold one example: its
            bills would compose.
    """
    for name in ("load_partition", "num_partitions", "dataset"):
        if not hasattr(type(partitioner), name):
            raise ConfigurationError(
                f"a partitioner of class {type(partitioner).__name__}, without `{name}`",
                "one of flwr_datasets.partitioner",
                "Pass the object: IidPartitioner(num_partitions=10).",
            )
    whole = Whole(dataset)
    size = len(whole.labels)
    table: dict[str, Sequence[Any]] = {_ROW: range(size), _LABEL: whole.labels.tolist()}
    for name, values in (columns or {}).items():
        if name in table or len(values) != size:
            raise ConfigurationError(
                f"a column {name!r} of {len(values)} values",
                f"{size}, one for each example; {_ROW!r} and {_LABEL!r} are there already",
                "Name another, and give a value for each example.",
            )
        table[name] = values
    try:
        from datasets import Dataset as Table
    except ImportError as error:
        raise ConfigurationError(
            "a partitioner without Hugging Face's datasets", "the package that flwr-datasets brings", "Install it."
        ) from error
    try:
        partitioner.dataset = Table.from_dict({name: list(values) for name, values in table.items()})
        parts = [_rows(partitioner.load_partition(i)[_ROW]) for i in range(operator.index(partitioner.num_partitions))]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{type(partitioner).__name__}: {type(error).__name__}: {error}",
            f"a fresh partitioner that can part {size} examples by {[*table]}",
            "Build a new one for each split; partition_by names one of these columns.",
        ) from error
    every = np.concatenate([*parts, np.empty(0, np.int64)])
    if len(np.unique(every)) < len(every):
        raise DataError(
            f"partitions of {type(partitioner).__name__} that share examples",
            "each example at one client at most",
            "An example at two clients is charged twice, which no ledger sees: choose another partitioner.",
        )
    return whole.clients(parts, make_client)


def _rows(found: Any) -> NDArray[np.int64]:
    return np.asarray(list(found), dtype=np.int64)
