"""DistDD on small data: its bill, its public parts, and its knobs."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_distdd import NOISY, MakeImages, Small, charged, members, open_fit
from wiring import PerClient

from private_distdd.aggregation import TrimmedMean
from private_distdd.data.dataset import ImageDataset
from private_distdd.errors import ConfigurationError, NotPrivateWarning
from private_distdd.methods.distdd import DistDD
from private_distdd.methods.distdd_course import DistDDCourse
from private_distdd.privacy.accountants import best_epsilon
from private_distdd.privacy.events import NotPrivate, SampledGaussian
from private_distdd.privacy.ledger import Budget, Charge, Ledger, Pin, Sealed
from private_distdd.privacy.plan import Privacy
from private_distdd.privacy.randomness import InsecureRandomness
from private_distdd.release.release import Release
from private_distdd.server.record import RoundRecord
from private_distdd.simulation.splits import dirichlet_split
from private_distdd.site.client import Client
from private_distdd.synthetic.dataset import SyntheticDataset
from private_distdd.wire.message import Message
from private_distdd.wire.query import Query


def test_a_private_run_on_digits(digits: ImageDataset, tmp_path: Path) -> None:
    clients = dirichlet_split(digits, 4, alpha=1.0, seed=0)
    privacy = Privacy(target_epsilon=8.0, delta=1e-5, sample_rate=0.3, max_grad_norm=0.1)
    method = DistDD(
        2, 6, model="convnet", model_args={"width": 8, "depth": 2}, matching_steps=3, privacy=privacy, seed=1
    )
    records: list[RoundRecord] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        release = method.fit(clients, on_round_end=records.append)
    release.verify()
    assert release.private
    assert isinstance(release.dataset, SyntheticDataset)
    assert release.dataset.images.shape == (20, 1, 8, 8)
    assert release.dataset.labels.tolist() == [c for c in range(10) for _ in range(2)]
    assert bool(torch.isfinite(release.dataset.images).all())
    plan = privacy.plan(6)
    assert release.card["plan"] == plan.to_json()
    for client in clients:
        assert 7.9 < release.epsilon[client.client_id] <= 8.0
        data = release.ledgers[client.client_id]
        assert data == client.ledger.to_bytes()
        entries = list(Ledger.parse(data))
        assert [type(e) for e in entries[1:]] == [Pin] + [Charge, Sealed] * 6
        assert all(charge.event == plan.event for charge in charged(data))
        bill = release.card["clients"][client.client_id]
        assert bill["charges"] == bill["messages_used"] == 6
        assert bill["claim"]["epsilon"] == best_epsilon([plan.schedule], 1e-5)
    assert [r.server_round for r in records] == [1, 2, 3, 4, 5, 6]
    assert all(len(r.answered) == 4 and math.isfinite(r.matching_loss) for r in records)
    bills = [max(r.epsilon.values()) for r in records]
    assert bills == sorted(bills)
    assert bills[-1] == release.epsilon[clients[0].client_id]
    progress = release.card["progress"]
    assert progress == {"rounds_planned": 6, "rounds_done": 6, "matching_steps": 18, "stopped_early": False}
    json.dumps(release.card, allow_nan=False)
    release.save(tmp_path / "out")
    Release.load(tmp_path / "out").verify()


def test_a_client_with_just_the_target_as_budget_takes_part(make_images: MakeImages) -> None:
    clients = members(make_images, 1)
    clients[0] = Client("c0", make_images(9), Ledger(None, Budget(0.5, 1e-5)))
    release = Small(privacy=Privacy(target_epsilon=0.5, sample_rate=0.1), rounds=2).fit(clients)
    assert release.epsilon["c0"] <= 0.5


def test_what_leaves_a_client_is_one_message_a_round_and_nothing_else(make_images: MakeImages) -> None:
    sent: list[tuple[str, bytes]] = []

    class Wire(PerClient):
        def enroll(self, client_id: str, run: bytes) -> bytes:
            sent.append(("enroll", super().enroll(client_id, run)))
            return sent[-1][1]

        def ask(self, client_id: str, query: bytes) -> bytes:
            sent.append(("ask", super().ask(client_id, query)))
            return sent[-1][1]

    clients = [Client(f"c{i}", make_images(n)) for i, n in enumerate((0, 1, 300))]
    release = Small(aggregator="median").fit(Wire(clients), info=clients[0].info)
    release.verify()
    assert [kind for kind, _ in sent] == ["enroll"] * 3 + ["ask"] * 12
    assert len({len(data) for kind, data in sent if kind == "ask"}) == 1
    assert len({len(data) for kind, data in sent if kind == "enroll"}) == 1
    assert all(Message.from_bytes(data).counts is None for kind, data in sent if kind == "ask")


def test_without_privacy_it_is_said_everywhere(make_images: MakeImages) -> None:
    clients = members(make_images)
    records: list[RoundRecord] = []
    release = open_fit(Small(privacy=None), clients, on_round_end=records.append)
    release.verify()
    assert not release.private
    assert release.card["noise_model"] == "none"
    assert set(release.epsilon.values()) == {math.inf}
    assert all(set(r.epsilon.values()) == {math.inf} for r in records)
    assert all(e == NotPrivate() for client in clients for e in client.ledger.events)
    assert len(clients[0].ledger.events) == 4 + 1  # the class counts are a release, too


def test_an_insecure_client_makes_the_release_not_private(make_images: MakeImages) -> None:
    clients = [*members(make_images, 2), Client("x", make_images(9), randomness=InsecureRandomness(0))]
    release = Small().fit(clients)
    release.verify()
    assert not release.private
    assert release.epsilon["x"] == math.inf
    assert math.isfinite(release.epsilon["c0"])


def test_private_runs_differ_and_open_runs_do_not(make_images: MakeImages) -> None:
    images = [Small().fit(members(make_images)).dataset.images for _ in range(2)]
    assert not torch.equal(*images)
    for arguments in ({}, {"participation": 0.67, "memory": 3, "network_steps": 2, "initialization": "real"}):
        method = Small(privacy=None, batch_per_class=2, **arguments)
        opened = []
        for junk in (0, 1):
            torch.manual_seed(junk), np.random.seed(junk)
            opened.append(open_fit(method, members(make_images)).dataset.images)
        assert torch.equal(*opened)
        other = open_fit(dataclasses.replace(method, seed=5), members(make_images)).dataset.images
        assert not torch.equal(opened[0], other)


def test_the_server_starts_from_public_noise_only(make_images: MakeImages, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = []
    begin = DistDDCourse._begin

    def noted(self: DistDDCourse) -> None:
        begin(self)
        starts.append(self.latents.examples().detach().clone())

    monkeypatch.setattr(DistDDCourse, "_begin", noted)
    Small().fit(members(make_images))
    Small().fit(members(make_images, n=1))
    assert torch.equal(starts[0], starts[1])  # whatever the data
    assert float(starts[0].std()) == pytest.approx(1, abs=0.2)


def test_networks_are_fresh_and_public(make_images: MakeImages) -> None:
    def weights(reinit_every: int | None, seed: int = 0, **arguments: Any) -> list[str]:
        seen: list[str] = []

        class Wire(PerClient):
            def ask(self, client_id: str, query: bytes) -> bytes:
                own = Query.from_bytes(query)
                seen.append(str(own.arguments.get("seeds", {n: w.tolist() for n, w in sorted(own.tensors.items())})))
                return super().ask(client_id, query)

        clients = members(make_images, 1)
        Small(reinit_every=reinit_every, seed=seed, **arguments).fit(Wire(clients), info=clients[0].info)
        return seen

    every = weights(1)
    assert len(set(every)) == 4
    assert weights(1) == every  # public: the same seed, the same networks, whatever the noise
    assert weights(1, seed=1) != every
    never = weights(None)
    assert len(set(never)) == 1
    second = weights(2)
    assert second[0] == second[1] != second[2] == second[3]
    assert len(set(weights(None, network_steps=1))) == 4
    trained = weights(2, network_steps=1)
    assert [text[0] for text in trained] == ["[", "{", "[", "{"]  # what is random is sent as its seed


def test_participation_lowers_t_max(make_images: MakeImages) -> None:
    clients = members(make_images, 4)
    records: list[RoundRecord] = []
    release = Small(rounds=8, participation=0.5).fit(clients, on_round_end=records.append)
    release.verify()
    assert all(len(r.answered) == 2 for r in records)
    counts = [bill["charges"] for bill in release.card["clients"].values()]
    assert sum(counts) == 16
    assert release.card["plan"]["max_queries"] == max(counts) < 8
    assert len({r.answered for r in records}) > 1
    # The schedule is public: the same seed asks the same clients.
    again: list[RoundRecord] = []
    Small(rounds=8, participation=0.5).fit(members(make_images, 4), on_round_end=again.append)
    assert [r.answered for r in again] == [r.answered for r in records]


@pytest.mark.parametrize(
    "arguments",
    [
        {"granularity": "joint"},
        {"granularity": "joint", "network_update": "aggregated", "network_steps": 1, "reinit_every": None},
        {"memory": 3},
        {"network_update": "aggregated", "network_steps": 1, "reinit_every": None},
        {"network_steps": 3, "reinit_every": None},
        {"network_steps": 1, "network_momentum": 0.5, "reinit_every": 2},
        {"distance": "layer_cosine", "matching_optimizer": "sgd"},
        {"distance": "squared_l2"},
        {"aggregator": "sum"},
        {"aggregator": "median"},
        {"aggregator": TrimmedMean(share=0.34)},
        {"reinit_every": 2, "matching_rate": 1e-3, "matching_schedule": "constant"},
        {"ipc": 3},
    ],
)
@pytest.mark.parametrize("privacy", [NOISY, None])
def test_every_knob_runs_and_costs_the_same(
    make_images: MakeImages, arguments: dict[str, Any], privacy: Privacy | None
) -> None:
    clients = members(make_images)
    method = Small(privacy=privacy, **arguments)
    release = method.fit(clients) if privacy else open_fit(method, clients)
    release.verify()
    assert release.dataset.ipc == arguments.get("ipc", 1)
    if privacy is not None:
        assert [e.event for e in charged(release.ledgers["c0"])] == [SampledGaussian(5.0, 0.5)] * 4
    groups = 1 if arguments.get("granularity") == "joint" else 3
    outbox = clients[0]._outbox._held
    assert outbox is not None
    assert Message.from_bytes(outbox[1]).values.shape[0] == groups


@pytest.mark.parametrize("distance", ["cosine", "layer_cosine", "squared_l2"])
def test_matching_brings_the_distance_down(make_images: MakeImages, distance: str) -> None:
    records: list[RoundRecord] = []
    method = Small(
        privacy=None, rounds=10, matching_steps=5, distance=distance, reinit_every=None, batch_per_class=1000
    )
    open_fit(method, members(make_images), on_round_end=records.append)
    assert records[-1].matching_loss < 0.9 * records[0].matching_loss


@pytest.mark.parametrize("momentum", [0.0, 0.75])
def test_the_aggregated_update_is_one_step_along_the_message(
    make_images: MakeImages, monkeypatch: pytest.MonkeyPatch, momentum: float
) -> None:
    steps: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    real = DistDDCourse._update_network

    def flat(network: torch.nn.Module) -> torch.Tensor:
        return torch.cat([p.detach().reshape(-1).clone() for p in network.parameters()])

    def spy(self: Any, target: torch.Tensor) -> None:
        before = flat(self.network)
        real(self, target)
        steps.append((before, flat(self.network), target))

    monkeypatch.setattr(DistDDCourse, "_update_network", spy)
    taught = {"network_update": "aggregated", "network_steps": 1, "reinit_every": None}
    release = Small(network_rate=0.5, network_momentum=momentum, **taught).fit(members(make_images))
    assert len(steps) == 4
    moving = torch.zeros_like(steps[0][0])
    for before, after, target in steps:
        moving = momentum * moving + target.mean(dim=0)
        assert torch.allclose(after, before - 0.5 * moving, atol=1e-6)
    assert torch.equal(steps[1][0], steps[0][1])
    assert release.teacher is not None
    assert torch.equal(flat(release.teacher.build()), steps[-1][1])
    logits = release.teacher.build()(release.dataset.images)
    assert torch.equal(logits.argmax(dim=1), release.dataset.require_soft_labels().argmax(dim=1))


@pytest.mark.parametrize("other", [{"network_update": "synthetic"}, {"reinit_every": 2}, {"network_steps": 0}])
def test_only_a_network_that_messages_alone_trained_is_a_teacher(
    make_images: MakeImages, other: dict[str, Any]
) -> None:
    taught = {"network_update": "aggregated", "network_steps": 1, "reinit_every": None}
    release = Small(**(taught | other)).fit(members(make_images))
    assert release.teacher is None
    assert release.dataset.soft_labels is None


def test_memory_matches_older_messages_too(make_images: MakeImages, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[list[torch.Tensor]] = []  # by round; the tensors are kept, so that no id is used twice
    match, distance = DistDDCourse._match, DistDDCourse._distance
    monkeypatch.setattr(DistDDCourse, "_match", lambda self, t: used.append([]) or match(self, t))
    monkeypatch.setattr(DistDDCourse, "_distance", lambda s, n, t: used[-1].append(t) or distance(s, n, t))
    clients = members(make_images)
    Small(memory=2, matching_steps=12, rounds=3).fit(clients)
    targets = [{id(target) for target in own} for own in used]
    assert [len(t) for t in targets] == [1, 2, 2]
    assert len(clients[0].ledger.events) == 3  # free post-processing


@pytest.mark.parametrize("events", ["one", "each"])
def test_every_network_of_a_query_is_matched_with_its_own_gradient(
    make_images: MakeImages, monkeypatch: pytest.MonkeyPatch, events: str
) -> None:
    """Without privacy: at each of them the target is the clients' mean gradient there, in its own scale."""
    data = make_images(30)
    used: dict[int, tuple[torch.nn.Module, torch.Tensor]] = {}
    distance = DistDDCourse._distance
    monkeypatch.setattr(DistDDCourse, "_distance", lambda s, n, t: used.update({id(t): (n, t)}) or distance(s, n, t))
    knobs = {"networks_per_query": 3, "network_events": events, "matching_steps": 40, "rounds": 1}
    open_fit(Small(privacy=None, batch_per_class=1000, memory=1, **knobs), [Client("a", data)])
    assert len(used) == 3
    assert len({float(next(network.parameters()).detach().sum()) for network, _ in used.values()}) == 3
    for network, target in used.values():
        for label in range(3):
            own = data.labels == label
            loss = torch.nn.functional.cross_entropy(network(data.images[own]), data.labels[own])
            gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))])
            assert torch.allclose(target[label], gradient, atol=1e-6)


def test_memory_counts_rounds_and_not_networks(make_images: MakeImages) -> None:
    method = Small(networks_per_query=2, memory=2, rounds=3)
    courses: list[DistDDCourse] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DistDD, "course", lambda own, started: courses.append(DistDDCourse(own, started)) or courses[0])
        method.fit(members(make_images))
    assert [remembered.server_round for remembered in courses[0].memory] == [1, 1, 2, 2]


def test_real_images_without_privacy(make_images: MakeImages) -> None:
    clients = members(make_images)
    method = Small(privacy=None, initialization="real", rounds=1, matching_rate=1e-9, ipc=2)
    images = open_fit(method, clients).dataset.images
    known = torch.cat([client._images for client in clients])
    labels = torch.cat([client._labels for client in clients])
    for index, image in enumerate(images):
        distances = (known - image).flatten(1).norm(dim=1)
        assert float(distances.min()) < 1e-3
        assert int(labels[distances.argmin()]) == index // 2
    with pytest.raises(ConfigurationError, match="ipc"), pytest.warns(NotPrivateWarning):
        Small(privacy=None, initialization="real", ipc=99).fit(members(make_images))


def test_the_batch_is_drawn_as_if_data_were_in_one_place(
    make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[list[int]] = []
    real = Client._plain

    def spy(self: Client, query: Query, question: Any) -> Message:
        message = real(self, query, question)
        if query.question.startswith("class_gradients"):
            assert message.counts is not None
            counts.append(message.counts.tolist())
        return message

    monkeypatch.setattr(Client, "_plain", spy)
    clients = [
        Client("a", make_images(30, labels=[0] * 30)),
        Client("b", make_images(12, labels=[0, 1] * 6)),
        Client("c", make_images(0)),
    ]
    open_fit(Small(privacy=None, batch_per_class=10), clients)
    per_round = np.array(counts).reshape(4, 3, 3).sum(axis=1)
    assert per_round.tolist() == [[10, 6, 0]] * 4  # never more than there are
    assert np.array(counts).reshape(4, 3, 3)[:, 0, 0].sum() > 20
