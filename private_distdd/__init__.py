"""Federated dataset distillation with a privacy bill that can be checked.

The public names are loaded when they are first used, so that ledgers and accountants can be read without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from private_distdd.baselines.fedavg import FedAvg, FedProx
    from private_distdd.data.dataset import ImageDataset
    from private_distdd.data.huggingface import from_huggingface
    from private_distdd.data.info import DatasetInfo
    from private_distdd.data.load import load_dataset
    from private_distdd.data.normalised import from_torch
    from private_distdd.errors import Interrupted, NotPrivateWarning, PrivateDistDDError
    from private_distdd.evaluation import Evaluation, evaluate
    from private_distdd.experiments.sweep import sweep
    from private_distdd.limits import ComputeLimits
    from private_distdd.methods.collabdm import CollabDM
    from private_distdd.methods.distdd import DistDD
    from private_distdd.methods.feddgm import FedDGM
    from private_distdd.networks.generators import Generator, public_generator
    from private_distdd.networks.register import register_model
    from private_distdd.networks.spec import ModelSpec
    from private_distdd.networks.trained import TrainedNetwork
    from private_distdd.privacy.ledger import Budget, Ledger
    from private_distdd.privacy.plan import Privacy, PrivacyPlan
    from private_distdd.release.release import Release
    from private_distdd.server.record import RoundRecord
    from private_distdd.simulation.mislabelling import mislabel
    from private_distdd.simulation.partitions import partition_with
    from private_distdd.simulation.splits import dirichlet_split, shard_split
    from private_distdd.site.client import Client
    from private_distdd.synthetic.dataset import SyntheticDataset

__version__ = "0.2.0"

_HOMES = {
    "Budget": "privacy.ledger",
    "Client": "site.client",
    "CollabDM": "methods.collabdm",
    "ComputeLimits": "limits",
    "DatasetInfo": "data.info",
    "DistDD": "methods.distdd",
    "Evaluation": "evaluation",
    "FedAvg": "baselines.fedavg",
    "FedDGM": "methods.feddgm",
    "FedProx": "baselines.fedavg",
    "Generator": "networks.generators",
    "ImageDataset": "data.dataset",
    "Interrupted": "errors",
    "Ledger": "privacy.ledger",
    "ModelSpec": "networks.spec",
    "NotPrivateWarning": "errors",
    "Privacy": "privacy.plan",
    "PrivacyPlan": "privacy.plan",
    "PrivateDistDDError": "errors",
    "Release": "release.release",
    "RoundRecord": "server.record",
    "SyntheticDataset": "synthetic.dataset",
    "TrainedNetwork": "networks.trained",
    "dirichlet_split": "simulation.splits",
    "evaluate": "evaluation",
    "from_huggingface": "data.huggingface",
    "from_torch": "data.normalised",
    "load_dataset": "data.load",
    "mislabel": "simulation.mislabelling",
    "partition_with": "simulation.partitions",
    "public_generator": "networks.generators",
    "register_model": "networks.register",
    "shard_split": "simulation.splits",
    "sweep": "experiments.sweep",
}

__all__ = [
    "Budget",
    "Client",
    "CollabDM",
    "ComputeLimits",
    "DatasetInfo",
    "DistDD",
    "Evaluation",
    "FedAvg",
    "FedDGM",
    "FedProx",
    "Generator",
    "ImageDataset",
    "Interrupted",
    "Ledger",
    "ModelSpec",
    "NotPrivateWarning",
    "Privacy",
    "PrivacyPlan",
    "PrivateDistDDError",
    "Release",
    "RoundRecord",
    "SyntheticDataset",
    "TrainedNetwork",
    "dirichlet_split",
    "evaluate",
    "from_huggingface",
    "from_torch",
    "load_dataset",
    "mislabel",
    "partition_with",
    "public_generator",
    "register_model",
    "shard_split",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
