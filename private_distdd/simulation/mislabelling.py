"""Wrong labels, on purpose: clients whose examples say another class."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from private_distdd.errors import ConfigurationError
from private_distdd.site.client import Client
from private_distdd.validate import is_real, require_kind


def mislabel(clients: Sequence[Client], fraction: float, pattern: str = "pair", *, seed: int = 0) -> list[Client]:
    """The same clients, a share of them with every label wrong: the corruption that robust aggregators are for.

    Args:
        clients: clients that have not answered yet; those chosen are replaced, with the same id, data and ledger.
        fraction: share of the clients to corrupt, 0 <= fraction <= 1, rounded to the nearest whole client.
        pattern: "pair": class c is called c + 1 (modulo the classes), the same at every corrupt client (the consistent
            mislabelling of the paper's section 4.3); "uniform": each label is another class, drawn at random.
        seed: steers which clients, and the draws of "uniform" (public).

    Returns:
        all clients, in their order.

    Raises:
        ConfigurationError: a value is out of range, or a client does not know its number of classes.
    """
    if not is_real(fraction) or not 0 <= fraction <= 1:
        raise ConfigurationError(f"fraction = {fraction!r}", "0 <= fraction <= 1", "Give a share of the clients.")
    if pattern not in ("pair", "uniform"):
        raise ConfigurationError(f"pattern = {pattern!r}", "'pair' or 'uniform'", "Choose one of these.")
    for client in clients:
        require_kind("one of the clients", client, Client, "a Client", "Split the data first, with dirichlet_split.")
    if any(client.info is None for client in clients):
        raise ConfigurationError("a client without info", "clients that know their class list", "Pass Client(info=).")
    rng = np.random.default_rng(seed)
    chosen = set(rng.permutation(len(clients))[: round(fraction * len(clients))].tolist())

    def wrong(labels: Tensor, classes: int) -> Tensor:
        shift = np.ones(len(labels), np.int64) if pattern == "pair" else rng.integers(1, classes, len(labels))
        return (labels + torch.from_numpy(shift)) % classes

    return [
        client.relabelled(partial(wrong, classes=client.info.num_classes)) if client.info and i in chosen else client
        for i, client in enumerate(clients)
    ]
