"""What the tests of sweeps share: a configuration whose cells take a blink."""

from __future__ import annotations

import copy
from typing import Any

import pytest

Config = dict[str, Any]

_SMALL: Config = {
    "data": {"dataset": "wine"},
    "split": {"num_clients": 2},
    "method": {
        "name": "distdd",
        "ipc": 1,
        "rounds": 1,
        "matching_steps": 1,
        "network_steps": 0,
        "model": "mlp",
        "model_args": {"width": 16, "depth": 1},
    },
    "privacy": {"noise_multiplier": 2.0, "delta": 1e-5},
    "evaluation": {"model": "mlp", "networks": 1, "epochs": 2},
}


@pytest.fixture
def small() -> Config:
    """One cell: DistDD on the wines of two clients, private."""
    return copy.deepcopy(_SMALL)
