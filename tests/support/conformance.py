"""What the tests of methods/conformance share."""

from __future__ import annotations

import functools
import itertools
import json
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from wiring import PerClient

from private_distdd.baselines.fedavg import FedAvg, FedProx
from private_distdd.data.dataset import ImageDataset
from private_distdd.engines.in_process import InProcess
from private_distdd.errors import NotPrivateWarning
from private_distdd.methods.collabdm import CollabDM
from private_distdd.methods.distdd import DistDD
from private_distdd.methods.feddgm import FedDGM
from private_distdd.privacy.ledger import Charge, Ledger
from private_distdd.privacy.plan import Privacy
from private_distdd.release.release import Release
from private_distdd.site.client import Client
from private_distdd.wire.query import Query
from private_distdd.wire.refusal import Refusal

MakeImages = Callable[..., ImageDataset]
NOISY = Privacy(noise_multiplier=5.0, sample_rate=0.5, delta=1e-5)


@dataclass(frozen=True)
class Case:
    """A method with small settings; every default that is a matter of measurement is pinned.

    Args:
        make: the method, to be called with knobs.
        queries: T_max of its private run.
        questions: those that a private run asks.
        counts: knobs that are whole numbers of at least 1.
        numbers: knobs that are finite numbers above 0.
        events: measurements that a query takes.
        draws: its runs without privacy draw real images over the clients in their order, some of every class.
        matchings: how often S is matched, with `matching_steps` each; None after every query, if there is an S.
        weights: its queries carry weights that follow from earlier messages.
    """

    make: Callable[..., Any]
    queries: int
    questions: frozenset[str]
    counts: tuple[str, ...]
    numbers: tuple[str, ...]
    events: int = 1
    draws: bool = False
    matchings: int | None = None
    weights: bool = False

    @property
    def heard(self) -> list[int]:
        """After which rounds the callback is called: each, or where S is matched after the rounds, the last."""
        return list(range(1, self.queries + 1)) if self.matchings is None else [self.queries]

    def steps(self, method: Any) -> int:
        """On S, by a method with these settings."""
        return (self.matchings or self.queries) * steps_of(method)


COLLABDM = functools.partial(  # every default that is a matter of measurement is pinned here
    CollabDM,
    ipc=1,
    partition=2,
    networks=3,
    model="mlp",
    model_args={"width": 16, "depth": 1},
    pool=1,
    frequencies=8,
    bandwidth=0.5,
    augment=True,
    aggregator="mean",
    matching_steps=4,
    matching_rate=0.1,
    smoothness=0.1,
    local_steps=0,
    embedding_rounds=1,
    teacher_rounds=0,
    teacher="mlp",
    teacher_args={"width": 4, "depth": 1},
    teacher_rate=0.5,
    teacher_momentum=0.9,
    refinement_rounds=0,
    network_epochs=2,
)


def local_start(**knobs: Any) -> CollabDM:
    """Its runs without privacy start from images that clients distilled by themselves."""
    method: CollabDM = COLLABDM(**({"local_steps": 0 if knobs.get("privacy") else 2} | knobs))
    return method


DISTDD = functools.partial(
    DistDD,
    ipc=1,
    rounds=2,
    model="mlp",
    model_args={"width": 8, "depth": 1},
    matching_steps=2,
    matching_rate=0.1,
    network_steps=0,
    reinit_every=1,
    memory=1,
    aggregator="mean",
    distance="cosine",
)


def distdd(events: int = 1, **knobs: Any) -> Case:
    return Case(
        functools.partial(DISTDD, **knobs),
        2,
        frozenset({"class_gradients_at_seeds"}),
        ("ipc", "rounds", "matching_steps", "memory", "networks_per_query"),
        ("matching_rate", "generator_rate", "network_rate"),
        events,
    )


def collabdm(make: Callable[..., CollabDM], **others: Any) -> Case:
    return Case(
        make,
        counts=("ipc", "partition", "networks", "frequencies", "pool", "matching_steps", "embedding_rounds"),
        numbers=("matching_rate", "generator_rate", "bandwidth", "teacher_rate"),
        **({"queries": 1, "questions": frozenset({"class_embeddings"}), "matchings": 1} | others),
    )


def fedavg(make: Callable[..., FedAvg]) -> Case:
    return Case(
        functools.partial(
            make,
            rounds=2,
            model="mlp",
            model_args={"width": 8, "depth": 1},
            aggregator="mean",
            local_steps=3,
            learning_rate=0.1,
            proximal=1.0,
        ),
        2,
        frozenset({"local_training"}),
        ("rounds", "local_steps", "batch_size"),
        ("learning_rate",),
        events=3,
        weights=True,
    )


FEDDGM = functools.partial(
    FedDGM,
    ipc=1,
    rounds=2,
    model="mlp",
    model_args={"width": 8, "depth": 1},
    aggregator="mean",
    starts=2,
    surrogate_steps=2,
    learning_rate=0.1,
    parametrisation="convolutional",
    match="mean",
    distance="cosine",
    student_steps=2,
    student_rate=0.1,
    matching_steps=4,
    matching_rate=0.1,
    generator_rate=0.01,
    smoothness=0.1,
    partition=1,
)


def feddgm(**knobs: Any) -> Case:
    return Case(
        functools.partial(FEDDGM, **knobs),
        2,
        frozenset({"local_trainings"}),
        ("rounds", "ipc", "starts", "surrogate_steps", "student_steps", "matching_steps", "partition", "batch_size"),
        ("student_rate", "matching_rate", "generator_rate"),
        events=4,
        matchings=2 if knobs.get("surrogates") == "trained" else 1,
        weights=bool(knobs.get("surrogates")),
    )


CASES = {
    "DistDD": distdd(),
    "DistDD, a network that the messages train": replace(
        distdd(
            network_update="aggregated", network_steps=1, network_momentum=0.9, reinit_every=None, granularity="joint"
        ),
        questions=frozenset({"class_gradients_at_seeds", "class_gradients"}),
        weights=True,
    ),
    "DistDD, two networks in one event": distdd(networks_per_query=2, memory=2),
    "DistDD, two networks in an event each": distdd(2, networks_per_query=2, network_events="each"),
    "CollabDM": collabdm(COLLABDM),
    "CollabDM, local start": collabdm(local_start, draws=True),
    "CollabDM, rounds of all kinds": collabdm(
        functools.partial(COLLABDM, networks=2, embedding_rounds=2, teacher_rounds=2, refinement_rounds=1),
        queries=5,
        questions=frozenset({"class_embeddings", "class_gradients"}),
        matchings=2,
        weights=True,
    ),
    "DistDD, in a generator": distdd(parametrisation="convolutional"),
    "CollabDM, in a generator": collabdm(functools.partial(COLLABDM, parametrisation="convolutional")),
    "FedDGM": feddgm(),
    "FedDGM, whole ways in pixels": feddgm(segment=1, parametrisation="pixels", distance="l2"),
    "FedDGM, a share of S for each client": feddgm(
        match="clients", ipc=3, surrogates="continued", parametrisation="pixels"
    ),
    "FedDGM, surrogates that S trained": feddgm(surrogates="trained", surrogate_epochs=2),
    "FedAvg": fedavg(FedAvg),
    "FedProx": fedavg(FedProx),
}


def steps_of(method: Any) -> int:
    """On S, each time it is matched; a method that makes none takes none."""
    return getattr(method, "matching_steps", 0)


def made(release: Release) -> Tensor:
    """What the release holds: S, or a network's weights."""
    if release.synthetic is not None:
        return release.synthetic.images
    assert release.teacher is not None
    return torch.cat([weights.flatten() for weights in release.teacher.state.values()])


class Wire(PerClient):
    """Notes all that crosses the wire; some clients refuse the method's queries from some round on."""

    def __init__(self, clients: Sequence[Client], refuse: Collection[str] = (), at: int = 0) -> None:
        super().__init__(clients)
        self.enrolments: list[bytes] = []
        self.answers: list[tuple[str, Query, bytes]] = []
        self._refuse, self._at = refuse, at

    def enroll(self, client_id: str, run: bytes) -> bytes:
        assert type(run) is bytes
        self.enrolments.append(super().enroll(client_id, run))
        return self.enrolments[-1]

    def ask(self, client_id: str, query: bytes) -> bytes:
        assert type(query) is bytes
        asked = Query.from_bytes(query)
        if client_id in self._refuse and asked.server_round >= self._at:
            return Refusal("refused").to_bytes()
        self.answers.append((client_id, asked, super().ask(client_id, query)))
        return self.answers[-1][2]


def members(make_images: MakeImages, count: int = 3, n: int = 9, **arguments: Any) -> list[Client]:
    return [Client(f"c{i}", make_images(n, seed=i), **arguments) for i in range(count)]


def fit(method: Any, clients: Sequence[Client] | InProcess, **arguments: Any) -> Release:
    """The release; a run without privacy must warn, a private one must not."""
    if isinstance(clients, InProcess):
        arguments.setdefault("info", next(iter(clients._clients.values())).info)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        release: Release = method.fit(clients, **arguments)
    assert [w.category for w in caught] == ([] if method.privacy else [NotPrivateWarning])
    return release


def charges(data: bytes) -> list[Charge]:
    return [entry for entry in Ledger.parse(data) if isinstance(entry, Charge)]


def checked(release: Release, tmp_path: Path) -> Release:
    """Verified as it is, and after a way through a folder."""
    release.verify()
    json.dumps(release.card, allow_nan=False)
    assert bool(torch.isfinite(made(release)).all())
    release.save(tmp_path / "out")
    loaded = Release.load(tmp_path / "out")
    loaded.verify()
    assert torch.equal(made(loaded), made(release))
    assert loaded.ledgers == release.ledgers
    return loaded


def raising(error: type[BaseException], real: Callable[..., Any], at: int) -> Callable[..., Any]:
    """The function, which raises once it has done its work for the at-th time."""
    counter = itertools.count(1)

    def stop(*arguments: Any, **named: Any) -> Any:
        result = real(*arguments, **named)
        if next(counter) == at:
            raise error
        return result

    return stop
