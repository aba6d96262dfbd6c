"""Clients in company: every message is the one that the client would send alone, to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.engines.in_process import InProcess
from private_distdd.networks.embedding import EmbeddingSpec
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.mechanism import Measurement
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.privacy.randomness import InsecureRandomness
from private_distdd.questions.class_gradients import ClassGradients
from private_distdd.site import company
from private_distdd.site.client import Client
from private_distdd.wire.engine import ASK
from private_distdd.wire.message import Message
from private_distdd.wire.query import Query
from private_distdd.wire.refusal import Refusal
from private_distdd.wire.reply import Reply
from private_distdd.wire.run import Run

INFO = DatasetInfo("tiny", 3, (1, 8, 8), (0.5,), (0.5,))
NETWORKS = [
    ModelSpec("mlp", {"width": 16}),
    ModelSpec("mlp", {"width": 600, "depth": 1}),  # rows longer than a block of the lattice
    ModelSpec("convnet", {"width": 16}),
    ModelSpec("convnet", {"width": 4, "norm": "none", "activation": "tanh"}),
    ModelSpec("convnet", {"width": 8, "norm": "group", "activation": "gelu"}),
    ModelSpec("resnet", {"width": 16}),
    ModelSpec("scatter_linear"),  # on features that each client keeps
]


def images(n: int, seed: int, labels: list[int]) -> ImageDataset:
    generator = torch.Generator().manual_seed(seed)
    own = torch.tensor([labels[i % len(labels)] for i in range(n)], dtype=torch.int64)
    return ImageDataset(torch.randn((n, *INFO.shape), generator=generator), own, INFO)


def federation(sizes: list[int], labels: list[int], run: Run) -> list[Client]:
    clients = [Client(f"c{i}", images(n, i, labels), randomness=InsecureRandomness(i)) for i, n in enumerate(sizes)]
    for client in clients:
        client.enroll(run)
    return clients


def asked(run: Run, kind: int, granularity: str, server_round: int = 0) -> Query:
    if kind == len(NETWORKS):
        embedding = EmbeddingSpec(NETWORKS[2], (0, 1), 1, 0.5, 32, True)
        return Query(run.run_id, server_round, "class_embeddings", embedding.to_json(), {}, run.plan)
    spec = NETWORKS[kind]
    arguments = {"model": spec.to_json(), "granularity": granularity}
    state = dict(spec.build(INFO.shape, INFO.num_classes, seed=server_round).state_dict())
    return Query(run.run_id, server_round, "class_gradients", arguments, state, run.plan)


@settings(max_examples=40)
@given(
    st.lists(st.integers(0, 150), min_size=1, max_size=8),
    st.lists(st.integers(0, 2), min_size=1, max_size=4),
    st.integers(0, len(NETWORKS)),
    st.sampled_from(["class", "joint"]),
    st.sampled_from([0.1, 0.5, 1.0]),
    st.sampled_from([1e-6, 1.0]),
    st.sampled_from([1, 1 << 24]),
)
def test_messages_are_those_of_clients_alone(
    sizes: list[int], labels: list[int], kind: int, granularity: str, rate: float, sigma: float, together: int
) -> None:
    run = Run("run-1", INFO, PrivacyPlan(sigma, rate, 1.0, 1.0, 2, delta=1e-5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(company, "_TOGETHER", together)
        alone, met = (federation(sizes, labels, run) for _ in range(2))
        for server_round in range(2):
            query = asked(run, kind, granularity, server_round)
            replies = InProcess(met).exchange(ASK, {client.client_id: query.data for client in met})
            for client in alone:
                found = Reply.from_bytes(replies[client.client_id] or b"")
                assert found.answer == client.answer(query).data
    for one, other in zip(alone, met, strict=True):
        assert one.ledger.events == other.ledger.events
        assert [one.ledger.digest(f"run-1:00000{t}") for t in range(2)] == [
            other.ledger.digest(f"run-1:00000{t}") for t in range(2)
        ]


def test_micro_batches_are_shared_and_the_question_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run("run-1", INFO, PrivacyPlan(1.0, 1.0, 1.0, 1.0, 2, delta=1e-5))
    clients = federation([5] * 30, [0, 1, 2], run)
    clients[0].answer(asked(run, 0, "class"))  # the checks of the first query are behind us
    rows, made, handed, built = ClassGradients.rows, ClassGradients.__init__, list[int](), list[int]()

    def watched(own: ClassGradients, batch: Tensor, labels: Tensor) -> Tensor:
        handed.append(int(batch.flatten(1).any(dim=1).sum()))
        return rows(own, batch, labels)

    def counted(own: ClassGradients, *arguments: Any) -> None:
        built.append(1)
        made(own, *arguments)

    monkeypatch.setattr(ClassGradients, "rows", watched)
    monkeypatch.setattr(ClassGradients, "__init__", counted)
    query = asked(run, 0, "class", 1)
    InProcess(clients).exchange(ASK, {client.client_id: query.data for client in clients})
    assert handed == [60, 60, 30]  # 12 clients of five examples fill a micro-batch of 64, but for four
    assert len(built) == 1


def test_one_client_s_failure_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run("run-1", INFO, PrivacyPlan(1.0, 1.0, 1.0, 1.0, 2, delta=1e-5))
    clients = federation([5, 5, 5], [0, 1, 2], run)
    add, calls = Measurement.add, list[int]()

    def failing(own: Measurement, *others: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError("put in by a test")
        add(own, *others)

    monkeypatch.setattr(Measurement, "add", failing)
    query = asked(run, 0, "class")
    found = InProcess(clients).exchange(ASK, {client.client_id: query.data for client in clients})
    answers = [Reply.from_bytes(data or b"").answer for data in found.values()]
    assert Refusal.from_bytes(answers[1]) == Refusal("failed")
    assert [Message.from_bytes(answers[i]).client_id for i in (0, 2)] == ["c0", "c2"]
    assert [len(client.ledger.events) for client in clients] == [1, 1, 1]


@pytest.mark.parametrize("failing", [{1}, {0, 3}, {0, 1, 2, 3}])
def test_a_failure_of_the_rows_is_its_client_s_own_too(failing: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run("run-1", INFO, PrivacyPlan(1.0, 1.0, 1.0, 1.0, 2, delta=1e-5))
    sizes, labels = [5, 20, 9, 70], [0, 1, 2]
    alone, met = (federation(sizes, labels, run) for _ in range(2))
    query = asked(run, 2, "class")
    expected = [client.answer(query).data for client in alone]
    marks = [images(sizes[i], i, labels).images[0] for i in failing]
    rows, handed = ClassGradients.rows, list[int]()

    def failing_rows(own: ClassGradients, batch: Tensor, targets: Tensor) -> Tensor:
        handed.append(int(batch.flatten(1).any(dim=1).sum()))
        if any(bool((batch == mark).flatten(1).all(dim=1).any()) for mark in marks):
            raise MemoryError("put in by a test")
        return rows(own, batch, targets)

    monkeypatch.setattr(ClassGradients, "rows", failing_rows)
    replies = InProcess(met).exchange(ASK, {client.client_id: query.data for client in met})
    assert handed[:4] == [34, 5, 20, 9]  # the fourth client fills a micro-batch, for which the others have no room
    refused = Refusal("failed").to_bytes()
    assert [Reply.from_bytes(replies[client.client_id] or b"").answer for client in met] == [
        refused if i in failing else own for i, own in enumerate(expected)
    ]
    assert [len(client.ledger.events) for client in met] == [1] * 4  # a failure uses its charge up


@pytest.mark.parametrize("events", ["one", "each"])
def test_questions_of_several_measurements_are_answered_in_company_too(
    events: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = PrivacyPlan(1.0, 0.5, 1.0, 1.0, 2, delta=1e-5, events_per_query=3 if events == "each" else 1)
    run = Run("run-1", INFO, plan)
    alone, met = (federation([9, 0, 70, 20], [0, 1, 2], run) for _ in range(2))
    arguments = {"model": NETWORKS[0].to_json(), "granularity": "class", "seeds": [5, 6, 7], "events": events}
    query = Query(run.run_id, 0, "class_gradients_at_seeds", arguments, {}, plan)
    expected = {client.client_id: client.answer(query).data for client in alone}
    rows, batches = ClassGradients.rows, list[int]()
    monkeypatch.setattr(ClassGradients, "rows", lambda own, *batch: batches.append(1) or rows(own, *batch))
    replies = InProcess(met).exchange(ASK, dict.fromkeys(expected, query.data))
    assert {name: Reply.from_bytes(data or b"").answer for name, data in replies.items()} == expected
    assert len(batches) < 3 * len(met)  # shared


def test_ctrl_c_in_shared_rows_leaves_nobody_without_the_answer_that_was_paid_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run("run-1", INFO, PrivacyPlan(1.0, 1.0, 1.0, 1.0, 2, delta=1e-5))
    clients = federation([30, 30, 30, 30], [0, 1, 2], run)
    clients[0].answer(asked(run, 0, "class"))
    query, rows, calls = asked(run, 0, "class", 1), ClassGradients.rows, list[int]()

    def stopped(own: ClassGradients, *batch: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return rows(own, *batch)

    monkeypatch.setattr(ClassGradients, "rows", stopped)
    with pytest.raises(KeyboardInterrupt) as caught:
        InProcess(clients).exchange(ASK, {client.client_id: query.data for client in clients})
    replies = caught.value.replies  # type: ignore[attr-defined]
    answered = [name for name, data in replies.items() if data is not None]
    statuses = [client.ledger.status("run-1:000001") for client in clients]
    assert statuses == ["sealed", "sealed", "sealed", "new"]  # three fill a micro-batch; the fourth was not begun
    assert answered == ["c0", "c1", "c2"]


@pytest.mark.parametrize("several", [False, True], ids=["alone", "in company"])
def test_ctrl_c_in_the_rows_leaves_no_client_locked(several: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run("run-1", INFO, PrivacyPlan(1.0, 1.0, 1.0, 1.0, 3, delta=1e-5))
    clients = federation([30, 30, 30] if several else [30], [0, 1, 2], run)
    clients[0].answer(asked(run, 0, "class"))
    query, calls = asked(run, 0, "class", 1), list[int]()

    def stopped(*_: Any) -> Tensor:
        calls.append(1)
        raise KeyboardInterrupt

    def ask() -> list[bytes]:
        if not several:
            return [clients[0].answer(query).data]
        replies = InProcess(clients).exchange(ASK, {client.client_id: query.data for client in clients})
        return [Reply.from_bytes(data or b"").answer for data in replies.values()]

    with monkeypatch.context() as patch:
        patch.setattr(ClassGradients, "rows", stopped)
        with pytest.raises(KeyboardInterrupt) as caught:  # its traceback, which holds the frames, lives to the end
            ask()
    assert len(calls) == (2 if several else 1)  # in company, again while it finishes
    assert [client._busy.locked() for client in clients] == [False] * len(clients)
    assert [Message.from_bytes(data).client_id for data in ask()] == [client.client_id for client in clients]
    assert [client.ledger.events[-2:] for client in clients] == [client.ledger.events[-1:] * 2 for client in clients]
    assert isinstance(caught.value, KeyboardInterrupt)
