"""DistDD end to end on small data: the bill, the endings, the knobs, and every bad value."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from wiring import PerClient

from private_distdd.aggregation import TrimmedMean
from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError, ModelError, NotPrivateWarning, QueryRefusedError
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
from private_distdd.wire.refusal import Refusal

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


# The bill


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
    assert bills[-1] == clients[0].ledger.epsilon(1e-5, "rdp")
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
    start = DistDDCourse._start
    monkeypatch.setattr(DistDDCourse, "_start", lambda self: starts.append(start(self)) or starts[-1].clone())
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
                seen.append(str({name: w.tolist() for name, w in sorted(own.tensors.items())}))
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


# Endings


def interrupting(at: int) -> Callable[[RoundRecord], None]:
    def stop(record: RoundRecord) -> None:
        if record.server_round == at:
            raise KeyboardInterrupt

    return stop


def check_partial(release: Release, clients: Sequence[Client], charges: int, tmp_path: Path) -> None:
    release.verify()
    for client in clients:
        assert len(charged(release.ledgers[client.client_id])) == charges == len(client.ledger.events)
        # Stopping may have looked at messages: the claim is still that of all planned queries.
        claim = best_epsilon([SampledGaussian(5.0, 0.5, 4)], 1e-5)
        assert release.epsilon[client.client_id] == claim
        assert release.card["clients"][client.client_id]["spent"]["epsilon"] < claim
    assert release.card["progress"]["stopped_early"]
    assert bool(torch.isfinite(release.dataset.images).all())
    release.save(tmp_path / "partial")
    Release.load(tmp_path / "partial").verify()


def test_ctrl_c_between_rounds(make_images: MakeImages, tmp_path: Path) -> None:
    clients = members(make_images)
    release = Small().fit(clients, on_round_end=interrupting(3))
    check_partial(release, clients, 3, tmp_path)
    assert release.card["progress"]["rounds_done"] == 3


def test_ctrl_c_in_the_last_round_is_a_whole_run(make_images: MakeImages) -> None:
    release = Small().fit(members(make_images), on_round_end=interrupting(4))
    release.verify()
    assert not release.card["progress"]["stopped_early"]


@pytest.mark.parametrize("where", ["_match", "_update_network", "step"])
def test_ctrl_c_while_the_server_works(
    make_images: MakeImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The likeliest moment: the messages are in and paid, the round is not done."""
    clients, calls, real = members(make_images), [], getattr(DistDDCourse, where)

    def stop(self: Any, *arguments: Any) -> Any:
        calls.append(1)
        result = real(self, *arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(DistDDCourse, where, stop)
    check_partial(Small().fit(clients), clients, 3, tmp_path)


def test_ctrl_c_while_a_client_answers(make_images: MakeImages, monkeypatch: pytest.MonkeyPatch) -> None:
    clients, calls, real = members(make_images), [], Client._private

    def stop(self: Client, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:  # round 2, the second client: charged, not sealed
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(Client, "_private", stop)
    release = Small().fit(clients)
    release.verify()
    assert [len(charged(release.ledgers[c.client_id])) for c in clients] == [2, 2, 1]
    assert [release.card["clients"][c.client_id]["messages_used"] for c in clients] == [2, 1, 1]


class Leaving(PerClient):
    """Clients that refuse from some round on."""

    def __init__(self, clients: Sequence[Client], leave: dict[str, int]) -> None:
        super().__init__(clients)
        self._leave = leave

    def ask(self, client_id: str, query: bytes) -> bytes:
        if Query.from_bytes(query).server_round >= self._leave.get(client_id, 99):
            return Refusal("budget").to_bytes()
        return super().ask(client_id, query)


@pytest.mark.parametrize("privacy", [NOISY, None])
@pytest.mark.parametrize("aggregator", ["mean", "median"])
def test_a_client_that_refuses_leaves_and_the_run_goes_on(
    make_images: MakeImages, privacy: Privacy | None, aggregator: str
) -> None:
    clients, records = members(make_images, allow_without_privacy=privacy is None), []
    method = Small(privacy=privacy, aggregator=aggregator)
    wire = Leaving(clients, {"c1": 2, "c2": 3} if privacy else {})
    fit = method.fit if privacy else functools.partial(open_fit, method)
    release = fit(wire, info=clients[0].info, on_round_end=records.append)
    release.verify()
    expected = [3, 3, 2, 1] if privacy else [3, 3, 3, 3]
    assert [len(r.answered) for r in records] == expected
    if privacy:
        assert [release.card["clients"][f"c{i}"]["charges"] for i in range(3)] == [4, 2, 3]


def test_a_client_whose_budget_cannot_pay_stays_out(make_images: MakeImages, caplog: pytest.LogCaptureFixture) -> None:
    clients = [*members(make_images, 2), Client("poor", make_images(9), Ledger(None, Budget(0.5, 1e-5)))]
    before = clients[2].ledger.to_bytes()
    with caplog.at_level(logging.WARNING):
        release = Small().fit(clients)
    release.verify()
    assert set(release.epsilon) == {"c0", "c1"}
    assert clients[2].ledger.to_bytes() == before
    assert "client poor does not take part: budget" in caplog.text


@pytest.mark.parametrize("leave", [0, 1])
def test_nobody_left_is_a_valid_release(make_images: MakeImages, leave: int, tmp_path: Path) -> None:
    clients, records = members(make_images), []
    wire = Leaving(clients, dict.fromkeys(["c0", "c1", "c2"], leave))
    release = Small().fit(wire, info=clients[0].info, on_round_end=records.append)
    check_partial_or_empty(release, leave)
    assert math.isnan(records[-1].matching_loss)
    assert records[-1].answered == ()
    assert len(records) == leave + 1
    release.save(tmp_path / "out")
    Release.load(tmp_path / "out").verify()


def check_partial_or_empty(release: Release, rounds: int) -> None:
    release.verify()
    assert {bill["charges"] for bill in release.card["clients"].values()} == {rounds}
    assert release.card["progress"]["stopped_early"]
    assert bool(torch.isfinite(release.dataset.images).all())


def test_nobody_from_the_start_is_an_error_without_a_trace(make_images: MakeImages) -> None:
    clients = members(make_images, 2, plan=Privacy(noise_multiplier=9.0).plan(4))
    with pytest.raises(QueryRefusedError, match="no client agrees"):
        Small().fit(clients)
    assert all(len(client.ledger) == 1 for client in clients)


# Knobs


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


def test_the_aggregated_update_is_one_step_along_the_message(
    make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
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
    Small(network_update="aggregated", network_steps=1, network_rate=0.5, reinit_every=None).fit(members(make_images))
    assert len(steps) == 4
    for before, after, target in steps:
        assert torch.allclose(after, before - 0.5 * target.mean(dim=0), atol=1e-6)
    assert torch.equal(steps[1][0], steps[0][1])


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
        if query.question == "class_gradients":
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


# Bad input

BAD: list[tuple[str, Any]] = [
    *(
        (name, value)
        for name in ("ipc", "rounds", "matching_steps", "memory")
        for value in (0, -1, 1.5, True, None, "1")
    ),
    *(("batch_per_class", value) for value in (0, -5, 2.5, "3")),
    *(("reinit_every", value) for value in (0, -1, 0.5)),
    *(("network_steps", value) for value in (-1, 0.5, None)),
    *(("seed", value) for value in (-1, 0.5, None)),
    *((n, v) for n in ("matching_rate", "network_rate") for v in (0, -1, math.nan, math.inf, "1", None)),
    *(("participation", value) for value in (0, -0.5, 1.01, math.nan, "1", None)),
    *(
        (name, value)
        for name in (
            "granularity",
            "distance",
            "matching_optimizer",
            "matching_schedule",
            "network_update",
            "initialization",
        )
        for value in ("other", "", None, 3)
    ),
    ("privacy", 8.0),
    ("privacy", {"target_epsilon": 8}),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_bad_values_are_refused_with_value_and_range(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Small(**({"privacy": None} | {name: value}))
    assert f"{name} = {value!r}" in str(caught.value)
    assert caught.value.allowed in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"batch_per_class": 5}, "batch_per_class = 5"),
        ({"initialization": "real"}, "initialization = 'real' with privacy"),
        ({"network_update": "aggregated", "network_steps": 2}, "network_steps = 2"),
    ],
)
def test_contradictions_are_refused(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        Small(**arguments)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"participation": 0.1}, "participation = 0.1 of 3 clients"),
        ({"aggregator": "trimmed_mean"}, "trimmed_mean"),
        ({"aggregator": "median", "participation": 0.67}, "median of 2 clients"),
        ({"aggregator": "krummest"}, "aggregator = 'krummest'"),
        ({"aggregator": "trimmed_mean(share=0.5)"}, "share = 0.5"),
        ({"device": "toaster"}, "device = 'toaster'"),
        ({"device": "meta:x"}, "device"),
        ({"privacy": Privacy(target_epsilon=1e-9, delta=1e-12)}, "2\\^20"),
        ({"privacy": Privacy(target_epsilon=1e-9, delta=1e-12, sample_rate=0.1)}, "epsilon|2\\^20"),
    ],
)
def test_what_only_the_clients_show_is_found_before_they_are_asked(
    make_images: MakeImages, arguments: dict[str, Any], text: str
) -> None:
    clients = members(make_images, ledger=None)
    with pytest.raises(ConfigurationError, match=text):
        Small(**arguments).fit(clients)
    assert all(len(client.ledger) == 1 for client in clients)  # nothing spent, nothing reserved


@pytest.mark.parametrize("model", [("no such", {}), ("mlp", {"width": 0}), ("mlp", {"color": 1}), ("lenet", {})])
def test_bad_models_are_found_before_the_clients_are_asked(make_images: MakeImages, model: tuple[str, Any]) -> None:
    clients = members(make_images)
    with pytest.raises(ModelError):
        Small(model=model[0], model_args=model[1]).fit(clients)
    assert all(len(client.ledger) == 1 for client in clients)


def test_clients_must_agree_on_what_is_public(make_images: MakeImages, tiny_info: DatasetInfo) -> None:
    other = dataclasses.replace(tiny_info, mean=(0.1,))
    clients = [*members(make_images, 1), Client("x", make_images(3), info=other)]
    with pytest.raises(ConfigurationError, match="info"):
        Small().fit(clients)
    with pytest.raises(ConfigurationError, match="clients"):
        Small().fit([], info=tiny_info)
    with pytest.raises(ConfigurationError, match="clients"):
        Small().fit([clients[0], clients[0]])


def test_a_second_run_is_charged_on_top(make_images: MakeImages) -> None:
    clients = members(make_images, 1)
    Small().fit(clients)
    release = Small().fit(clients)
    release.verify()
    bill = release.card["clients"]["c0"]
    assert bill["charges"] == 4
    assert bill["so_far"]["epsilon"] > bill["spent"]["epsilon"]
    assert len(clients[0].ledger.events) == 8


def test_callbacks_and_progress_do_not_touch_the_result(
    make_images: MakeImages, capsys: pytest.CaptureFixture[str]
) -> None:
    method = Small(privacy=None)
    plain = open_fit(method, members(make_images)).dataset.images
    shown = open_fit(method, members(make_images), progress=True).dataset.images
    assert torch.equal(plain, shown)
    assert "NOT PRIVATE" in capsys.readouterr().err
    Small().fit(members(make_images), progress=True)
    assert "epsilon so far" in capsys.readouterr().err
