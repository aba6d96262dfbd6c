"""Splits: every example at exactly one client, seeded; and labels that are wrong exactly where they should be."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset, Subset, TensorDataset

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.data.normalised import from_torch
from private_distdd.errors import ConfigurationError, DataError
from private_distdd.privacy.ledger import Ledger
from private_distdd.simulation.mislabelling import mislabel
from private_distdd.simulation.splits import dirichlet_split, shard_split
from private_distdd.site.client import Client

INFO = DatasetInfo("tiny", 5, (1, 2, 2), (0.5,), (0.5,))


def numbered(n: int, seed: int = 0) -> ImageDataset:
    """Each image is its own number, so that it can be found again."""
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, 5, n))
    return ImageDataset(torch.arange(n, dtype=torch.float32).reshape(n, 1, 1, 1).expand(n, 1, 2, 2), labels, INFO)


def held(clients: list[Client]) -> list[list[int]]:
    return [client._images[:, 0, 0, 0].round().to(torch.int64).tolist() for client in clients]


def labels(clients: list[Client]) -> list[torch.Tensor]:
    return [client._labels for client in clients]


def check_split(clients: list[Client], data: ImageDataset) -> None:
    parts = held(clients)
    assert sorted(i for part in parts for i in part) == list(range(len(data)))
    for client, part in zip(clients, parts, strict=True):
        assert torch.equal(client._labels, data.labels[part])
        assert client.info == INFO
    names = [client.client_id for client in clients]
    assert names == sorted(set(names))


@given(
    st.integers(1, 12),
    st.sampled_from([0.01, 0.05, 0.5, 1.0, 100.0, math.inf]),
    st.integers(0, 10**6),
    st.integers(0, 5),
)
def test_every_example_is_at_exactly_one_client(clients: int, alpha: float, seed: int, min_size: int) -> None:
    data = numbered(120)
    try:
        split = dirichlet_split(data, clients, alpha, seed=seed, min_size=min_size)
    except ConfigurationError:
        assert alpha < 1
        return
    check_split(split, data)
    assert len(split) == clients
    assert min(map(len, held(split))) >= min_size
    assert held(dirichlet_split(data, clients, alpha, seed=seed, min_size=min_size)) == held(split)


def test_seeds_matter() -> None:
    data = numbered(120)
    for alpha in (0.5, math.inf):
        assert held(dirichlet_split(data, 4, alpha, seed=1)) != held(dirichlet_split(data, 4, alpha, seed=2))
    assert held(shard_split(data, 4, seed=1)) != held(shard_split(data, 4, seed=2))


def test_infinity_is_a_random_split_into_equal_parts() -> None:
    data = numbered(123)
    split = dirichlet_split(data, 10)
    check_split(split, data)
    assert sorted({len(part) for part in held(split)}) == [12, 13]
    assert held(split)[0] != list(range(13))


def test_alpha_is_the_skew() -> None:
    data = numbered(2000)

    def largest_share(alpha: float) -> float:
        split = dirichlet_split(data, 5, alpha, seed=3)
        counts = torch.stack([torch.bincount(own, minlength=5) for own in labels(split)]).double()
        return float((counts / counts.sum(dim=0)).max(dim=0).values.mean())

    assert largest_share(0.05) > 0.7 > largest_share(1.0) > largest_share(1000.0)
    assert largest_share(1000.0) < 0.25


@given(st.integers(1, 8), st.integers(1, 4), st.integers(0, 10**6))
def test_shards(clients: int, shards: int, seed: int) -> None:
    data = numbered(160)
    split = shard_split(data, clients, shards, seed=seed)
    check_split(split, data)
    sizes = [len(part) for part in held(split)]
    assert max(sizes) - min(sizes) <= shards
    if clients * shards >= 5:
        most = 1 + math.ceil(160 / (clients * shards) / int(torch.bincount(data.labels).min()))
        assert max(len(own.unique()) for own in labels(split)) <= shards * most


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_clients": 0},
        {"num_clients": 1.5},
        {"num_clients": True},
        {"num_clients": 3, "alpha": 0},
        {"num_clients": 3, "alpha": -1},
        {"num_clients": 3, "alpha": math.nan},
        {"num_clients": 3, "alpha": "1"},
        {"num_clients": 3, "min_size": -1},
        {"num_clients": 3, "min_size": 5},
        {"num_clients": 13},
        {"num_clients": 12, "alpha": 0.001},
    ],
)
def test_bad_splits(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        dirichlet_split(numbered(12), **arguments)


@pytest.mark.parametrize(("clients", "shards"), [(0, 2), (2, 0), (4, 4)])
def test_bad_shards(clients: int, shards: int) -> None:
    with pytest.raises(ConfigurationError):
        shard_split(numbered(12), clients, shards)


def test_an_empty_data_set_cannot_be_split() -> None:
    with pytest.raises(DataError, match="empty"):
        dirichlet_split(numbered(0), 1, min_size=0)


class WithNumpyLabels(Dataset[Any]):
    """As torchvision's SVHN: `.labels` is an array, and not what is yielded."""

    def __init__(self) -> None:
        self.labels = np.array([7] * 20)

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((1, 2, 2), index / 20), index % 5


@pytest.mark.parametrize("split", [dirichlet_split, shard_split])
def test_any_map_style_data_set(split: Any) -> None:
    foreign = [
        from_torch(WithNumpyLabels(), num_classes=INFO.num_classes, mean=0.0, std=1 / 20),
        from_torch(
            TensorDataset(torch.arange(20.0).reshape(20, 1, 1, 1).expand(20, 1, 2, 2) / 20, torch.arange(20) % 5),
            num_classes=INFO.num_classes,
            mean=0.0,
            std=1 / 20,
        ),
        Subset(ImageDataset(numbered(30).images, torch.arange(30) % 5, INFO), list(range(20))),
    ]
    for data in foreign:
        clients = split(data, 3)
        assert sorted(i for part in held(clients) for i in part) == list(range(20))
        for client, part in zip(clients, held(clients), strict=True):
            assert client._labels.tolist() == [i % 5 for i in part]


@given(st.integers(1, 12), st.floats(0, 1), st.sampled_from(["pair", "uniform"]), st.integers(0, 10**6))
def test_mislabel_spoils_every_label_at_its_share_and_nobody_else_s(
    count: int, fraction: float, pattern: str, seed: int
) -> None:
    clients = dirichlet_split(numbered(120), count)
    before = [own.clone() for own in labels(clients)]
    spoilt = mislabel(clients, fraction, pattern, seed=seed)
    changed = [new is not old for new, old in zip(spoilt, clients, strict=True)]
    assert sum(changed) == round(fraction * count)
    for new, old, wrong, kept in zip(spoilt, clients, changed, before, strict=True):
        assert torch.equal(old._labels, kept)  # the originals are left alone
        assert new.client_id == old.client_id
        assert new.ledger is old.ledger
        assert torch.equal(new._images, old._images)
        assert bool((new._labels == kept).any()) is (not wrong and len(kept) > 0)
        if wrong:
            assert bool(((new._labels >= 0) & (new._labels < 5)).all())
            if pattern == "pair":
                assert torch.equal(new._labels, (kept + 1) % 5)
    again = mislabel(clients, fraction, pattern, seed=seed)
    assert all(torch.equal(a, b) for a, b in zip(labels(spoilt), labels(again), strict=True))


def test_uniform_labels_are_uniform_over_the_wrong_ones() -> None:
    data = ImageDataset(numbered(4000).images, torch.full((4000,), 2), INFO)
    (spoilt,) = mislabel([Client("c", data)], 1.0, "uniform")
    counts = torch.bincount(spoilt._labels, minlength=5).tolist()
    assert counts[2] == 0
    assert min(counts[i] for i in (0, 1, 3, 4)) > 850


def test_which_clients_are_spoilt_is_drawn() -> None:
    clients = dirichlet_split(numbered(120), 10)
    chosen = set()
    for seed in range(20):
        spoilt = mislabel(clients, 0.3, seed=seed)
        chosen.add(tuple(i for i in range(10) if spoilt[i] is not clients[i]))
    assert len(chosen) > 10


@pytest.mark.parametrize(
    ("fraction", "pattern"),
    [(-0.1, "pair"), (1.1, "pair"), (math.nan, "pair"), ("1", "pair"), (True, "pair"), (0.5, "flip")],
)
def test_bad_mislabelling(fraction: Any, pattern: str) -> None:
    with pytest.raises(ConfigurationError):
        mislabel(dirichlet_split(numbered(12), 2), fraction, pattern)


def test_data_without_public_constants_is_refused() -> None:
    plain = TensorDataset(torch.zeros(4, 1, 2, 2), torch.arange(4))
    for split in (dirichlet_split, shard_split):
        with pytest.raises(DataError, match="from_torch"):
            split(plain, 2)
    client = Client("c", plain)
    with pytest.raises(ConfigurationError, match="class list"):
        mislabel([client], 1.0)
    client.describe(DatasetInfo("own", 4, (1, 2, 2)))
    assert mislabel([client], 1.0)[0]._labels.tolist() == [1, 2, 3, 0]


def test_make_client_is_used() -> None:
    ledgers: dict[str, Ledger] = {}

    def make(name: str, data: Dataset[Any]) -> Client:
        ledgers[name] = Ledger(None)
        return Client(name, data, ledgers[name])

    clients = dirichlet_split(numbered(20), 2, make_client=make)
    assert [client.ledger for client in clients] == list(ledgers.values())
    assert list(ledgers) == ["client-00", "client-01"]
