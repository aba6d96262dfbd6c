"""What the tests of methods/distdd share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from private_distdd.data.dataset import ImageDataset
from private_distdd.errors import NotPrivateWarning
from private_distdd.methods.distdd import DistDD
from private_distdd.privacy.ledger import Charge, Ledger
from private_distdd.privacy.plan import Privacy
from private_distdd.release.release import Release
from private_distdd.site.client import Client

MakeImages = Callable[..., ImageDataset]
NOISY = Privacy(noise_multiplier=5.0, sample_rate=0.5, delta=1e-5)
Small = functools.partial(  # every default that is a matter of measurement is pinned here
    DistDD,
    ipc=1,
    rounds=4,
    model="mlp",
    model_args={"width": 8, "depth": 1},
    matching_steps=2,
    network_steps=0,
    reinit_every=1,
    memory=1,
    aggregator="mean",
    distance="cosine",
    privacy=NOISY,
)


def members(make_images: MakeImages, count: int = 3, n: int = 9, **arguments: Any) -> list[Client]:
    return [Client(f"c{i}", make_images(n, seed=i), **arguments) for i in range(count)]


def charged(data: bytes) -> list[Charge]:
    return [entry for entry in Ledger.parse(data) if isinstance(entry, Charge)]


def open_fit(method: DistDD, clients: Sequence[Client], **arguments: Any) -> Release:
    with pytest.warns(NotPrivateWarning, match="NOT private"):
        return method.fit(clients, **arguments)
