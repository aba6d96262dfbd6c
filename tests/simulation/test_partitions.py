"""flwr-datasets' partitioners by what they offer: a small stand-in, and the real ones where they are installed."""

from __future__ import annotations

import functools
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from private_distdd import ImageDataset, partition_with
from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError, DataError
from private_distdd.site.client import Client

INFO = DatasetInfo("tiny", 5, (1, 2, 2), (0.5,), (0.5,))
WRITERS = ["a", "b", "c"] * 40


def numbered(n: int = 120) -> ImageDataset:
    """Each image is its own number, so that it can be found again."""
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 5, n))
    return ImageDataset(torch.arange(n, dtype=torch.float32).reshape(n, 1, 1, 1).expand(n, 1, 2, 2), labels, INFO)


def held(client: Client) -> list[int]:
    return [int(value) for value in client._images[:, 0, 0, 0].tolist()]


class Table:
    """As much of `datasets.Dataset` as is asked for."""

    def __init__(self, columns: dict[str, list[Any]]) -> None:
        self.columns = columns

    from_dict = classmethod(lambda cls, columns: cls(columns))

    def __getitem__(self, name: str) -> list[Any]:
        return self.columns[name]

    def select(self, rows: list[int]) -> Table:
        return Table({name: [values[row] for row in rows] for name, values in self.columns.items()})


class ByColumn:
    """A client for each value of a column; `shared` rows are at every client."""

    def __init__(self, partition_by: str = "label", shared: tuple[int, ...] = ()) -> None:
        self.partition_by, self.shared, self._table = partition_by, shared, None

    @property
    def dataset(self) -> Any:
        return self._table

    @dataset.setter
    def dataset(self, table: Any) -> None:
        if self._table is not None:
            raise ValueError("only once")
        self._table = table

    @property
    def num_partitions(self) -> int:
        return len(set(self._table[self.partition_by]))

    def load_partition(self, partition_id: int) -> Any:
        wanted = sorted(set(self._table[self.partition_by]))[partition_id]
        rows = [i for i, value in enumerate(self._table[self.partition_by]) if value == wanted or i in self.shared]
        return self._table.select(rows)


@pytest.fixture
def table_library(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("datasets")
    vars(module)["Dataset"] = Table
    monkeypatch.setitem(sys.modules, "datasets", module)


@pytest.mark.usefixtures("table_library")
def test_each_client_holds_its_rows() -> None:
    data = numbered()
    clients = partition_with(ByColumn(), data)
    assert [client.client_id for client in clients] == [f"client-0{i}" for i in range(5)]
    for label, client in enumerate(clients):
        assert held(client) == torch.nonzero(data.labels == label)[:, 0].tolist()
        assert client._labels.tolist() == [label] * len(held(client))
        assert client.info == INFO


@pytest.mark.usefixtures("table_library")
def test_columns_of_ones_own_and_clients_of_ones_own() -> None:
    make = functools.partial(Client, max_runs=3)
    clients = partition_with(ByColumn("writer"), numbered(), columns={"writer": WRITERS}, make_client=make)
    assert [held(client) for client in clients] == [list(range(first, 120, 3)) for first in range(3)]
    assert {client._max_runs for client in clients} == {3}


@pytest.mark.usefixtures("table_library")
def test_what_cannot_be_parted_is_refused() -> None:
    with pytest.raises(DataError, match="share examples"):
        partition_with(ByColumn(shared=(7,)), numbered())
    with pytest.raises(ConfigurationError, match="partition_by names one of these"):
        partition_with(ByColumn("writer"), numbered())
    used = ByColumn()
    partition_with(used, numbered())
    with pytest.raises(ConfigurationError, match="ValueError: only once"):
        partition_with(used, numbered())
    for columns in ({"writer": WRITERS[:5]}, {"label": WRITERS}):
        with pytest.raises(ConfigurationError, match="a column"):
            partition_with(ByColumn(), numbered(), columns=columns)
    with pytest.raises(ConfigurationError, match="without `load_partition`"):
        partition_with(10, numbered())
    with pytest.raises(DataError, match="carries no public constants"):
        partition_with(ByColumn(), torch.utils.data.TensorDataset(torch.zeros(3, 1), torch.zeros(3)))


def test_without_the_library_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigurationError, match="Hugging Face's datasets"):
        partition_with(ByColumn(), numbered())


@pytest.mark.filterwarnings("ignore")  # the library's own
def test_the_real_partitioners() -> None:
    partitioners = pytest.importorskip("flwr_datasets.partitioner")
    data = numbered()
    made = {
        "iid": partitioners.IidPartitioner(4),
        "dirichlet": partitioners.DirichletPartitioner(4, "label", 0.5, min_partition_size=1, seed=0),
        "pathological": partitioners.PathologicalPartitioner(5, "label", 2, class_assignment_mode="deterministic"),
        "shards": partitioners.ShardPartitioner(4, "label", num_shards_per_partition=2),
        "sizes": partitioners.SizePartitioner([10, 20, 90]),
        "linear": partitioners.LinearPartitioner(4),
        "natural": partitioners.NaturalIdPartitioner("writer"),
    }
    for name, partitioner in made.items():
        clients = partition_with(partitioner, data, columns={"writer": WRITERS})
        rows = [held(client) for client in clients]
        assert sorted(row for part in rows for row in part) == list(range(120)), name
        for client, part in zip(clients, rows, strict=True):
            assert torch.equal(client._labels, data.labels[part])
    assert [len(part) for part in rows] == [40, 40, 40]
