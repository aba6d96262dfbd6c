"""What is valid, and every case starts from: public constants, queries, messages, clients and runs."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.limits import GIB, ComputeLimits
from private_distdd.methods.collabdm import CollabDM
from private_distdd.methods.distdd import DistDD
from private_distdd.methods.feddgm import FedDGM
from private_distdd.networks.embedding import EmbeddingSpec
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.ledger import Ledger
from private_distdd.privacy.plan import Privacy, PrivacyPlan
from private_distdd.questions.arguments import weights_of
from private_distdd.site.client import Client
from private_distdd.wire.message import Message
from private_distdd.wire.query import Query
from private_distdd.wire.run import Run

INFO = DatasetInfo("tiny", 2, (1, 8, 8))
PLAN = PrivacyPlan(2.0, 0.5, 1.0, 4.0, 100, 1e-5)  # PRV takes 1.4 s at 1,000 queries, .03 s at 100
SPEC = ModelSpec("mlp", {"width": 8, "depth": 1})
CONVNET = ModelSpec("convnet", {"width": 8, "depth": 1})
EMBEDDING = EmbeddingSpec(CONVNET, (5, 6), 2, 0.5, 4, False)
NAMES = ("a", "b")
LATER = 999_999_999  # the last round there is, which no case asks: rounds go one way


@functools.cache
def place() -> Path:
    """A folder of this process; in memory where there is one, for thousands of small files are flushed."""
    memory = Path("/dev/shm")  # noqa: S108 - a fresh folder below it
    folder = tempfile.mkdtemp(prefix="fuzz-", dir=memory if os.access(memory, os.W_OK) else None)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def fresh(name: str) -> Path:
    """An empty folder of that name."""
    shutil.rmtree(place() / name, ignore_errors=True)
    (place() / name).mkdir()
    return place() / name


def images(seed: int) -> ImageDataset:
    """Six of each class: no computation fails because of what the client holds."""
    rng = np.random.default_rng(seed)
    pixels = torch.from_numpy(rng.standard_normal((12, *INFO.shape), dtype=np.float32))
    return ImageDataset(pixels, torch.arange(12) % 2, INFO)


def client(name: str = "a", ledger: Ledger | None = None) -> Client:
    """Answers with and without privacy, with an owner's limits that suit these tests."""
    limits = ComputeLimits(memory=GIB, work=1e8)
    return Client(name, images(NAMES.index(name)), ledger, allow_without_privacy=True, limits=limits)


RUN, OPEN_RUN = Run("run-1", INFO, PLAN), Run("run-2", INFO, None)
DISTILLATION = {
    "embedding": EMBEDDING.to_json(),
    "counts": [2, 1],
    "partition": 2,
    "steps": 2,
    "rate": 0.1,
    "smoothness": 0.1,
    "seed": 3,
}
GRADIENTS = {"model": SPEC.to_json(), "granularity": "class"}
WAYS = {"model": SPEC.to_json(), "seeds": [5], "whole": True, "steps": 1, "rate": 0.1, "batch_size": None, "seed": 1}
JOINT = {"model": CONVNET.to_json(), "granularity": "joint"}


def weights(spec: ModelSpec, seed: int = 0) -> dict[str, Tensor]:
    """A network's state."""
    return dict(spec.build(INFO.shape, INFO.num_classes, seed).state_dict())


def seen(spec: ModelSpec, seed: int) -> dict[str, Tensor]:
    """A network's state, for what it sees of an example as `EMBEDDING` has it."""
    return dict(spec.build(EMBEDDING.seen(INFO), INFO.num_classes, seed).state_dict())


def question(
    run: Run,
    question: str,
    arguments: Mapping[str, Any],
    tensors: Mapping[str, Tensor] | None = None,
    batch: tuple[tuple[int, ...], int] | None = None,
    server_round: int = 0,
) -> Query:
    """A valid query."""
    return Query(run.run_id, server_round, question, arguments, tensors or {}, run.plan, batch)


QUERIES = {
    "class_gradients": question(RUN, "class_gradients", GRADIENTS, weights(SPEC)),
    "joint": question(RUN, "class_gradients", JOINT, weights(CONVNET)),
    "class_embeddings": question(RUN, "class_embeddings", EMBEDDING.to_json()),
    "embeddings, weights sent": question(
        RUN, "class_embeddings", EMBEDDING.to_json(), weights_of([seen(CONVNET, seed) for seed in (1, 2)])
    ),
    "local_trainings": question(RUN, "local_trainings", WAYS),
    "local_trainings, weights sent": question(RUN, "local_trainings", WAYS, weights_of([weights(SPEC, 3)])),
    "open gradients": question(OPEN_RUN, "class_gradients", GRADIENTS, weights(SPEC), ((2, 3), 7)),
    "open embeddings": question(OPEN_RUN, "class_embeddings", EMBEDDING.to_json()),
    "class_examples": question(OPEN_RUN, "class_examples", {"counts": [2, 1]}, None, ((2, 1), 5)),
    "class_distillations": question(OPEN_RUN, "class_distillations", DISTILLATION),
    "class_counts": question(OPEN_RUN, "class_counts", {}),
}
MESSAGE = Message("a", "run-1:000000", QUERIES["class_gradients"].digest, torch.ones(2, 3))
OPEN_MESSAGE = Message("a", "run-2:000000", QUERIES["class_counts"].digest, torch.ones(2, 3), torch.tensor([1, 2]))


_PRIVACY = Privacy(noise_multiplier=2.0, sample_rate=0.5)
_DISTDD = DistDD(ipc=1, rounds=4, model="mlp", model_args=dict(SPEC.arguments), matching_steps=1, network_steps=1)
_COLLABDM = CollabDM(
    ipc=1,
    networks=2,
    frequencies=4,
    model_args=dict(CONVNET.arguments),
    matching_steps=2,
    embedding_rounds=1,
    teacher_rounds=0,
    teacher="mlp",
    teacher_args=dict(SPEC.arguments),
    refinement_rounds=0,
    network_epochs=1,
)
_FEDDGM = FedDGM(
    ipc=1,
    rounds=3,
    model="mlp",
    model_args=dict(SPEC.arguments),
    starts=2,
    surrogate_steps=2,
    student_steps=1,
    matching_steps=2,
    surrogates="trained",
    surrogate_epochs=1,
)
RUNS: dict[str, DistDD | CollabDM | FedDGM] = {
    "distdd": dataclasses.replace(_DISTDD, privacy=_PRIVACY, memory=2),
    "distdd open": dataclasses.replace(_DISTDD, initialization="real", batch_per_class=3, matching_optimizer="sgd"),
    "collabdm": dataclasses.replace(
        _COLLABDM, privacy=_PRIVACY, embedding_rounds=2, teacher_rounds=1, refinement_rounds=1
    ),
    "collabdm open": dataclasses.replace(_COLLABDM, local_steps=1),
    "feddgm": dataclasses.replace(_FEDDGM, privacy=_PRIVACY),
    "feddgm open": dataclasses.replace(
        _FEDDGM, surrogates="continued", match="clients", ipc=2, parametrisation="pixels"
    ),
}
