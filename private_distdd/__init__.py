"""Federated dataset distillation with a privacy bill that can be checked.

The public names are loaded when they are first used, so that ledgers and accountants can be read without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from private_distdd.data.datasets import DatasetInfo, ImageDataset, from_torch, load_dataset
    from private_distdd.data.synthetic import SyntheticDataset
    from private_distdd.errors import NotPrivateWarning, PrivateDistDDError
    from private_distdd.evaluation import Evaluation, evaluate
    from private_distdd.federation.client import Client
    from private_distdd.federation.partition import dirichlet_split, mislabel, shard_split
    from private_distdd.federation.session import RoundRecord
    from private_distdd.limits import ComputeLimits
    from private_distdd.methods.collabdm import CollabDM
    from private_distdd.methods.distdd import DistDD
    from private_distdd.models import ModelSpec, register_model
    from private_distdd.privacy.ledger import Budget, Ledger
    from private_distdd.privacy.spec import Privacy, PrivacyPlan
    from private_distdd.release import Release

__version__ = "0.2.0"

_HOMES = {
    "Budget": "privacy.ledger",
    "Client": "federation.client",
    "CollabDM": "methods.collabdm",
    "ComputeLimits": "limits",
    "DatasetInfo": "data.datasets",
    "DistDD": "methods.distdd",
    "Evaluation": "evaluation",
    "ImageDataset": "data.datasets",
    "Ledger": "privacy.ledger",
    "ModelSpec": "models",
    "NotPrivateWarning": "errors",
    "Privacy": "privacy.spec",
    "PrivacyPlan": "privacy.spec",
    "PrivateDistDDError": "errors",
    "Release": "release",
    "RoundRecord": "federation.session",
    "SyntheticDataset": "data.synthetic",
    "dirichlet_split": "federation.partition",
    "evaluate": "evaluation",
    "from_torch": "data.datasets",
    "load_dataset": "data.datasets",
    "mislabel": "federation.partition",
    "register_model": "models",
    "shard_split": "federation.partition",
}

__all__ = [
    "Budget",
    "Client",
    "CollabDM",
    "ComputeLimits",
    "DatasetInfo",
    "DistDD",
    "Evaluation",
    "ImageDataset",
    "Ledger",
    "ModelSpec",
    "NotPrivateWarning",
    "Privacy",
    "PrivacyPlan",
    "PrivateDistDDError",
    "Release",
    "RoundRecord",
    "SyntheticDataset",
    "dirichlet_split",
    "evaluate",
    "from_torch",
    "load_dataset",
    "mislabel",
    "register_model",
    "shard_split",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
