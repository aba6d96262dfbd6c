"""What the tests of site/client share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from private_distdd.data.dataset import ImageDataset
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.ledger import Ledger
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.wire.query import Query
from private_distdd.wire.run import Run

PLAN = PrivacyPlan(2.0, 0.5, 1.0, 4.0, 5, 1e-5)
SPEC = ModelSpec("mlp", {"width": 8, "depth": 1})
SHAPE = (1, 8, 8)
MakeImages = Callable[..., ImageDataset]


def query(run: Run, server_round: int = 0, *, seed: int = 0, **changes: Any) -> Query:
    weights = dict(SPEC.build(SHAPE, 3, seed).state_dict())
    values: dict[str, Any] = {
        "run_id": run.run_id,
        "server_round": server_round,
        "question": "class_gradients",
        "arguments": {"model": SPEC.to_json(), "granularity": "class"},
        "tensors": weights,
        "plan": run.plan,
    }
    return Query(**(values | changes))


def charges(ledger: Ledger) -> list[Any]:
    return list(ledger.events)
