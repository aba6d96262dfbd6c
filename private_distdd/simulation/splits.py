"""Split one data set into clients (IID, Dirichlet, shards by class), and spoil labels for robustness studies.

For simulations: everything here is seeded and public, and happens before any client has answered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from private_distdd.data.dataset import ImageDataset, carried_info, check_labels, materialise
from private_distdd.errors import ConfigurationError, DataError
from private_distdd.site.client import Client
from private_distdd.validate import require_count

MakeClient = Callable[[str, Dataset[Any]], Client]
_ATTEMPTS = 1000


def dirichlet_split(
    dataset: Dataset[Any],
    num_clients: int,
    alpha: float = math.inf,
    *,
    seed: int = 0,
    min_size: int = 1,
    make_client: MakeClient = Client,
) -> list[Client]:
    """Clients whose class mixtures are drawn from a Dirichlet distribution (Hsu, Qi and Brown 2019).

    Args:
        dataset: map-style data set of (image, label).
        num_clients: at least 1.
        alpha: concentration > 0: 0.1 is strong skew; infinity is IID (a random split into equal parts).
        seed: steers the split (public).
        min_size: no client gets fewer examples; drawn again until that holds.
        make_client: builds a client from its id ("client-00", ...) and data: `partial(Client, device="cuda")`.

    Returns:
        num_clients clients; each example is at exactly one.

    Raises:
        ConfigurationError: a value is out of range, or min_size cannot be met.
    """
    require_count("num_clients", num_clients, "Ask for at least one client.")
    require_count("min_size", min_size, "Use 0 to allow empty clients.", at_least=0)
    if not isinstance(alpha, int | float) or not alpha > 0:
        raise ConfigurationError(
            f"alpha = {alpha!r}", "alpha > 0, infinity included", "0.1 is strong skew, inf is IID."
        )
    whole = Whole(dataset)
    rng = np.random.default_rng(seed)
    if num_clients * min_size > len(whole.labels):
        raise ConfigurationError(
            f"{num_clients} clients of at least {min_size} examples from {len(whole.labels)}",
            "no more than the data set holds",
            "Use fewer clients or a smaller min_size.",
        )
    if math.isinf(alpha):
        return whole.clients(np.array_split(rng.permutation(len(whole.labels)), num_clients), make_client)
    for _ in range(_ATTEMPTS):
        parts: list[list[NDArray[np.int64]]] = [[] for _ in range(num_clients)]
        for label in np.unique(whole.labels):
            members = rng.permutation(np.flatnonzero(whole.labels == label))
            shares = rng.dirichlet(np.full(num_clients, alpha))
            cuts = np.round(np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
            for part, piece in zip(parts, np.split(members, cuts), strict=True):
                part.append(piece)
        joined = [np.concatenate(part) if part else np.empty(0, np.int64) for part in parts]
        if min(len(part) for part in joined) >= min_size:
            return whole.clients(joined, make_client)
    raise ConfigurationError(
        f"alpha = {alpha}, num_clients = {num_clients}, min_size = {min_size}",
        f"values for which one of {_ATTEMPTS} draws gives every client min_size examples",
        "Raise alpha, or lower num_clients or min_size.",
    )


def shard_split(
    dataset: Dataset[Any],
    num_clients: int,
    shards_per_client: int = 2,
    *,
    seed: int = 0,
    make_client: MakeClient = Client,
) -> list[Client]:
    """Clients that hold a few shards of the data sorted by class (McMahan et al. 2017): few classes each.

    Args:
        dataset: map-style data set of (image, label).
        num_clients: at least 1.
        shards_per_client: at least 1; num_clients * shards_per_client <= examples.
        seed: steers which shards go where (public).
        make_client: as in `dirichlet_split`.

    Raises:
        ConfigurationError: a value is out of range.
    """
    num_shards = require_count("num_clients", num_clients, "Ask for at least one client.") * require_count(
        "shards_per_client", shards_per_client, "2 is usual."
    )
    whole = Whole(dataset)
    if num_shards > len(whole.labels):
        raise ConfigurationError(f"{num_shards} shards", f"at most {len(whole.labels)} examples", "Use fewer.")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(whole.labels))
    shards = np.array_split(order[np.argsort(whole.labels[order], kind="stable")], num_shards)
    chosen = np.split(rng.permutation(num_shards), num_clients)
    return whole.clients([np.concatenate([shards[s] for s in own]) for own in chosen], make_client)


class Whole:
    """A data set about to be split: read once, with its public constants."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        info = carried_info(dataset)
        if info is None:
            raise DataError(
                f"a data set of class {type(dataset).__name__}, which carries no public constants",
                "one with .info: class list, image shape, normalisation",
                "Wrap it, from_torch(dataset, num_classes=...), or of load_dataset's pair (train, test) take one.",
            )
        self._info = info
        self._images, labels = materialise(dataset, info.shape)
        self.labels: NDArray[np.int64] = check_labels(labels, info.num_classes).numpy()
        if not len(self.labels):
            raise DataError("an empty data set", "at least one example to split", "Check where it comes from.")

    def clients(self, parts: Sequence[NDArray[np.int64]], make_client: MakeClient) -> list[Client]:
        """A client for each part; ids sort in the order of the parts."""
        width = max(2, len(str(len(parts) - 1)))
        return [make_client(f"client-{i:0{width}}", self._part(part)) for i, part in enumerate(parts)]

    def _part(self, part: NDArray[np.int64]) -> ImageDataset:
        index = np.sort(part)
        return ImageDataset(self._images[torch.from_numpy(index)], torch.from_numpy(self.labels[index]), self._info)
