"""Clients in this process: one call for all of them, the same wall of bytes, and deadlines."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.engines.in_process import InProcess, engine_of
from private_distdd.errors import ConfigurationError
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.mechanism import Measurement, SampledGaussianMechanism
from private_distdd.privacy.plan import Privacy
from private_distdd.site.client import Client
from private_distdd.wire.engine import ASK, ENROL, LEDGER, Engine, ExchangeInterrupted, Telling
from private_distdd.wire.message import Message
from private_distdd.wire.query import Query
from private_distdd.wire.refusal import Refusal
from private_distdd.wire.reply import Reply
from private_distdd.wire.run import Enrolment, Run

SPEC = ModelSpec("mlp", {"width": 4, "depth": 1})
PRIVACY = Privacy(noise_multiplier=1.0)
PLAN = PRIVACY.plan(3)
MakeImages = Callable[..., ImageDataset]


@pytest.fixture
def run(tiny_info: DatasetInfo) -> Run:
    return Run("run-1", tiny_info, PLAN)


@pytest.fixture
def clients(make_images: MakeImages) -> list[Client]:
    return [Client(f"c{i}", make_images(6, seed=i)) for i in range(3)]


def query(run: Run, server_round: int = 0) -> Query:
    arguments = {"model": SPEC.to_json(), "granularity": "class"}
    weights = dict(SPEC.build((1, 8, 8), 3, 0).state_dict())
    return Query(run.run_id, server_round, "class_gradients", arguments, weights, run.plan)


def read(data: bytes | None) -> Reply:
    assert data is not None
    return Reply.from_bytes(data)


def test_bytes_in_bytes_out(clients: list[Client], run: Run) -> None:
    engine = InProcess(clients)
    assert isinstance(engine, Engine)
    assert engine.client_ids == ("c0", "c1", "c2")
    enrolled = engine.exchange(ENROL, dict.fromkeys(["c2", "c1"], run.to_bytes()))
    assert {name: Enrolment.from_bytes(read(data).answer) for name, data in enrolled.items()} == {
        name: Enrolment(name, client.key.public_key) for name, client in zip(("c1", "c2"), clients[1:], strict=True)
    }
    (data,) = engine.exchange(ASK, {"c1": query(run).data}).values()
    assert Message.from_bytes(read(data).answer).query_digest == query(run).digest
    (data,) = engine.exchange(LEDGER, {"c1": b""}).values()
    assert read(data) == Reply(b"", clients[1].ledger.to_bytes())


def test_names_must_differ(clients: list[Client]) -> None:
    for bad in ([], [clients[0], clients[0]]):
        with pytest.raises(ConfigurationError, match="clients"):
            InProcess(bad)


def test_who_is_not_asked_before_the_deadline_is_absent_and_pays_nothing(clients: list[Client], run: Run) -> None:
    engine = InProcess(clients)
    engine.exchange(ENROL, dict.fromkeys(engine.client_ids, run.to_bytes()))
    requests = dict.fromkeys(engine.client_ids, query(run).data)
    assert engine.exchange(ASK, requests, deadline=-1.0) == dict.fromkeys(engine.client_ids)
    assert [client.ledger.events for client in clients] == [()] * 3
    assert None not in engine.exchange(ASK, requests, deadline=60.0).values()


def test_ctrl_c_keeps_what_was_paid_for(clients: list[Client], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = InProcess(clients)
    engine.exchange(ENROL, dict.fromkeys(engine.client_ids, run.to_bytes()))
    answer = Client.answer

    def stopped(own: Client, asked: Query) -> Message:
        if own.client_id == "c1":
            raise KeyboardInterrupt
        return answer(own, asked)

    monkeypatch.setattr(Client, "answer", stopped)
    with pytest.raises(ExchangeInterrupted) as caught:
        engine.exchange(ASK, dict.fromkeys(engine.client_ids, query(run).data))
    assert isinstance(caught.value, KeyboardInterrupt)
    assert Message.from_bytes(read(caught.value.replies["c0"]).answer).client_id == "c0"
    assert (caught.value.replies["c1"], caught.value.replies["c2"]) == (None, None)


def test_who_has_answered_is_told_as_it_comes(clients: list[Client], run: Run) -> None:
    engine = InProcess(clients)
    assert isinstance(engine, Telling)
    told: list[str] = []
    engine.came = told.append
    engine.exchange(ENROL, dict.fromkeys(["c1", "c0"], run.to_bytes()))
    assert told == ["c0", "c1"]
    engine.exchange(ASK, dict.fromkeys(engine.client_ids, query(run).data))
    assert sorted(told[2:]) == ["c0", "c1", "c2"]  # who refuses answers, too


def test_simulated_clients_answer_without_privacy_unless_forbidden(
    make_images: MakeImages, tiny_info: DatasetInfo
) -> None:
    own = [Client(f"c{i}", make_images(3), allow_without_privacy=allowed) for i, allowed in enumerate((None, False))]
    offer = dict.fromkeys(["c0", "c1"], Run("open", tiny_info, None).to_bytes())
    refused = Refusal("refused").to_bytes()
    assert [read(data).answer for data in InProcess(own).exchange(ENROL, offer).values()] == [refused, refused]
    found = InProcess(own, simulated=True).exchange(ENROL, offer)
    assert [read(data).answer for data in found.values()] == [
        Enrolment("c0", own[0].key.public_key).to_bytes(),
        refused,
    ]


def test_the_constants_are_those_of_all_clients(make_images: MakeImages, tiny_info: DatasetInfo) -> None:
    own = [Client("c0", make_images(3))]
    engine, info = engine_of(own, None)
    assert (engine.client_ids, info) == (("c0",), tiny_info)
    assert engine_of(engine, tiny_info) == (engine, tiny_info)
    with pytest.raises(ConfigurationError, match="info"):
        engine_of(engine, None)  # an engine's clients are out of sight
    other = Client("c1", make_images(0), info=DatasetInfo("other", 3, (1, 8, 8)))
    with pytest.raises(ConfigurationError, match="2 different"):
        engine_of([*own, other], None)


def test_two_engines_with_the_same_clients_do_not_wait_for_one_another(
    clients: list[Client], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = InProcess(clients[:2]), InProcess([own.relabelled(lambda labels: labels) for own in clients[1::-1]])
    for engine in engines:
        engine.exchange(ENROL, dict.fromkeys(engine.client_ids, run.to_bytes()))
    clients[2].enroll(run)
    clients[2].answer(query(run))  # the checks of the first query are behind us
    begin, both, met = SampledGaussianMechanism.begin, threading.Barrier(2), set[int]()

    def begun(*arguments: Any) -> Measurement:
        if threading.get_ident() not in met:  # with its first client under way each thread looks for the other
            met.add(threading.get_ident())
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait(timeout=1)
        return begin(*arguments)

    monkeypatch.setattr(SampledGaussianMechanism, "begin", begun)
    found: list[Mapping[str, bytes | None]] = []

    asked = query(run).data  # once: torch seeds weights by a state that threads share

    def ask(engine: InProcess) -> None:
        found.append(engine.exchange(ASK, dict.fromkeys(engine.client_ids, asked)))

    threads = [threading.Thread(target=ask, args=(engine,), daemon=True) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert [thread.is_alive() for thread in threads] == [False, False]
    first, second = ({name: read(data).answer for name, data in replies.items()} for replies in found)
    assert first == second
    assert {Message.from_bytes(answer).client_id for answer in first.values()} == {"c0", "c1"}
    assert [len(client.ledger.events) for client in clients[:2]] == [1, 1]  # the second engine's was the same query


def test_a_client_that_fails_with_an_exception_is_absent_and_the_others_are_not(
    clients: list[Client], run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = InProcess(clients)
    engine.exchange(ENROL, dict.fromkeys(engine.client_ids, run.to_bytes()))

    def fail(own: Refusal) -> bytes:
        raise MemoryError("put in by a test")

    monkeypatch.setattr(Refusal, "to_bytes", fail)
    with caplog.at_level(logging.DEBUG):
        found = engine.exchange(ASK, {"c0": query(run).data, "c1": b"no query", "c2": query(run).data})
    assert found["c1"] is None
    assert [Message.from_bytes(read(found[name]).answer).client_id for name in ("c0", "c2")] == ["c0", "c2"]
    assert {record.name for record in caplog.records} == {"private_distdd_client.c1"}
