"""What the tests of CollabDM's kinds of rounds share: a small method, what crossed the wire, and S matched by hand."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conformance import COLLABDM
from torch import Tensor
from wiring import PerClient

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.engines.in_process import InProcess
from private_distdd.matching.means import class_means, match_means
from private_distdd.methods.collabdm import CollabDM
from private_distdd.networks.embedding import Embedding, EmbeddingSpec
from private_distdd.networks.trained import TrainedNetwork
from private_distdd.privacy.plan import Privacy
from private_distdd.questions.class_embeddings import read
from private_distdd.release.release import Release
from private_distdd.server.checkpoint import STATE
from private_distdd.site.client import Client
from private_distdd.storage import unpack
from private_distdd.synthetic.latents import Latents
from private_distdd.wire.message import Message
from private_distdd.wire.query import Query

MakeImages = Callable[..., ImageDataset]
INFO = DatasetInfo("tiny", 3, (1, 8, 8), (0.5,), (0.5,))
NOISY = Privacy(noise_multiplier=5.0)
QUIET = Privacy(noise_multiplier=1e-6)
Phases = functools.partial(
    COLLABDM, networks=4, embedding_rounds=2, teacher_rounds=2, refinement_rounds=2, network_epochs=3, privacy=NOISY
)
ROUNDS = ("embedding 0", "embedding 1", "teacher 0", "teacher 1", "refinement 0", "refinement 1")


def members(make_images: MakeImages, count: int = 3, n: int = 9, **arguments: Any) -> list[Client]:
    """Clients with n, n + 3, n + 6, ... examples."""
    return [Client(f"c{i}", make_images(n + 3 * i, seed=i), **arguments) for i in range(count)]


class Wire(PerClient):
    """Notes all queries and answers; in each of `silent`, a round and clients, these cannot be reached."""

    def __init__(self, clients: Sequence[Client], silent: Mapping[int, Sequence[str]] | None = None) -> None:
        super().__init__(clients)
        self.queries: list[tuple[str, Query]] = []
        self.answers: list[tuple[int, Message]] = []
        self._silent = silent or {}

    def ask(self, client_id: str, query: bytes) -> bytes:
        asked = Query.from_bytes(query)
        if client_id in self._silent.get(asked.server_round, ()):
            raise ConnectionError
        self.queries.append((client_id, asked))
        answer = super().ask(client_id, query)
        self.answers.append((asked.server_round, Message.from_bytes(answer)))
        return answer

    def asked(self, server_round: int) -> Query:
        """What everybody was asked in that round: the same bytes."""
        (only,) = {query.data: query for _, query in self.queries if query.server_round == server_round}.values()
        return only

    def mean(self, server_round: int) -> Tensor:
        """The mean of that round's messages; with counts, over examples."""
        messages = [message for t, message in self.answers if t == server_round]
        total = torch.stack([message.values for message in messages]).sum(dim=0, dtype=torch.float64)
        if messages[0].counts is None:
            return (total / len(messages)).float()
        counts = torch.stack([message.counts for message in messages if message.counts is not None]).sum(dim=0)
        return (total / counts.clamp(min=1)[:, None]).float()


def run(method: CollabDM, clients: Sequence[Client] | InProcess, **arguments: Any) -> Release:
    """The release, which verifies."""
    if isinstance(clients, InProcess):
        arguments.setdefault("info", INFO)
    with warnings.catch_warnings():
        if method.privacy is None:
            warnings.simplefilter("ignore")
        release = method.fit(clients, **arguments)
    release.verify()
    return release


def kept(folder: Path) -> dict[str, Tensor]:
    """The tensors of a run's checkpoint."""
    return unpack((folder / STATE).read_bytes())[1]


def start(method: CollabDM) -> Tensor:
    """The noise that S starts from."""
    rng = np.random.default_rng([method.seed, *b"images"])
    return torch.from_numpy(rng.standard_normal((3 * method.ipc, *INFO.shape), dtype=np.float32))


def matched(
    method: CollabDM,
    images: Tensor,
    told: Sequence[tuple[EmbeddingSpec, Tensor, Sequence[Mapping[str, Tensor]] | None]],
) -> Tensor:
    """S after one matching, written down again from a query's specification, its message, and its networks' weights."""
    networks, means = [], []
    for spec, target, states in told:
        networks += [
            Embedding(spec, seed, INFO, "cpu", None if states is None else states[k])
            for k, seed in enumerate(spec.seeds)
        ]
        means.append(class_means(*read(target, len(spec.seeds))))
    latents = Latents(None, INFO, images.clone())
    match_means(
        latents,
        torch.arange(3).repeat_interleave(method.ipc),
        networks,
        torch.cat(means),
        INFO,
        partition=2,
        steps=method.matching_steps,
        rate=method.matching_rate,
        smoothness=method.smoothness,
        rng=np.random.default_rng([method.seed, *b"order"]),
    )
    return latents.examples().detach()


def opinion(teacher: TrainedNetwork, images: Tensor, labels: Tensor) -> Tensor:
    """Soft labels by hand: at the temperature, of half powers of 2, at which the examples' own labels are likeliest."""
    with torch.no_grad():
        logits = teacher.build()(images)
    own = [(logits / 2 ** (half / 2)).softmax(dim=1) for half in range(-10, 11)]
    return max(own, key=lambda soft: float(soft.gather(1, labels[:, None]).log().sum()))


def told(method: CollabDM, wire: Wire, *rounds: int) -> list[Any]:
    """What `matched` needs to know of these rounds."""
    found = []
    for t in rounds:
        query = wire.asked(t)
        spec = EmbeddingSpec.from_json(query.arguments)
        states = None
        if query.tensors:
            states = [
                {name[2:]: tensor for name, tensor in query.tensors.items() if name.startswith(f"{k}/")}
                for k in range(len(spec.seeds))
            ]
        found.append((spec, wire.mean(t), states))
    return found
