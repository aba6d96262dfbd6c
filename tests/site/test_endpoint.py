"""The wall around a client: bytes, fixed codes, and no text of any error."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from wiring import PerClient

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.errors import BudgetExceededError, DataError, QueryRefusedError
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.ledger import Ledger
from private_distdd.privacy.plan import Privacy
from private_distdd.questions.class_gradients import ClassGradients
from private_distdd.questions.register import private_question
from private_distdd.site.client import Client
from private_distdd.site.endpoint import Endpoint
from private_distdd.wire.message import Message
from private_distdd.wire.query import Query
from private_distdd.wire.refusal import Refusal
from private_distdd.wire.reply import Reply
from private_distdd.wire.run import Run

SPEC = ModelSpec("mlp", {"width": 4, "depth": 1})
PRIVACY = Privacy(noise_multiplier=1.0)
PLAN = PRIVACY.plan(3)
PRIVATE_TEXT = "patient Meier has label 2"
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


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError(PRIVATE_TEXT), "failed"),
        (MemoryError(PRIVATE_TEXT), "failed"),
        (AssertionError(PRIVATE_TEXT), "failed"),
        (OSError(PRIVATE_TEXT), "failed"),
        (IndexError(PRIVATE_TEXT), "failed"),
        # After the charge all failures look alike: which it was may depend on the data.
        (DataError(PRIVATE_TEXT, PRIVATE_TEXT, PRIVATE_TEXT), "failed"),
        (QueryRefusedError(PRIVATE_TEXT, PRIVATE_TEXT, PRIVATE_TEXT), "failed"),
        (BudgetExceededError(PRIVATE_TEXT, PRIVATE_TEXT, PRIVATE_TEXT), "failed"),
    ],
)
def test_no_error_s_text_crosses(
    clients: list[Client],
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    code: str,
) -> None:
    wire = PerClient(clients)
    wire.enroll("c0", run.to_bytes())
    asked = query(run)
    private_question(asked.question, asked.arguments, asked.tensors, run.info, "cpu")  # the checks are behind us

    def fail(*_: Any) -> Iterator[Any]:
        raise error

    monkeypatch.setattr(ClassGradients, "rows", fail)
    with caplog.at_level(logging.DEBUG):
        reply = wire.ask("c0", query(run).data)
    assert reply == Refusal(code).to_bytes()
    assert b"Meier" not in reply
    assert wire.ask("c0", query(run).data) == Refusal(code).to_bytes()
    assert {record.name for record in caplog.records} == {"private_distdd_client.c0"}  # the client's own log has it
    assert len(clients[0].ledger.events) == 2  # a try each


def test_errors_of_enrolment_do_not_cross_either(
    clients: list[Client], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise ValueError(PRIVATE_TEXT)

    monkeypatch.setattr(Client, "enroll", fail)
    assert PerClient(clients).enroll("c0", run.to_bytes()) == Refusal("failed").to_bytes()


def test_malformed_queries_are_refused_by_code(clients: list[Client], run: Run) -> None:
    wire = PerClient(clients)
    wire.enroll("c0", run.to_bytes())
    good = query(run).data
    for bad in (b"", b"x", good[:-1], good + b"x", b"{}"):
        assert wire.ask("c0", bad) == Refusal("refused").to_bytes()
        assert wire.enroll("c0", bad) == Refusal("refused").to_bytes()
    assert clients[0].ledger.events == ()


def test_a_client_that_does_not_know_the_run_says_so(clients: list[Client], run: Run) -> None:
    assert PerClient(clients).ask("c0", query(run).data) == Refusal("not_enrolled").to_bytes()
    assert clients[0].ledger.events == ()


@pytest.mark.parametrize("operation", ["", "ASK", "drop table", "ledger "])
def test_operations_that_do_not_exist_are_refused(clients: list[Client], operation: str) -> None:
    reply = Reply.from_bytes(Endpoint(clients[0]).handle(operation, b""))
    assert reply == Reply(Refusal("refused").to_bytes(), clients[0].ledger.to_bytes())


def test_the_ledger_rides_along_with_answers_and_refusals(clients: list[Client], run: Run) -> None:
    endpoint, ledger = Endpoint(clients[0]), clients[0].ledger
    before = ledger.to_bytes()
    assert Reply.from_bytes(endpoint.handle("ledger", b"")) == Reply(b"", before)
    enrolled = Reply.from_bytes(endpoint.handle("enrol", run.to_bytes()))
    assert enrolled.ledger == ledger.to_bytes() != before
    answered = Reply.from_bytes(endpoint.handle("ask", query(run).data))
    assert answered.ledger == ledger.to_bytes() != enrolled.ledger  # charged and sealed
    assert Message.from_bytes(answered.answer).message_id == query(run).message_id
    refused = Reply.from_bytes(endpoint.handle("ask", b"x"))
    assert refused == Reply(Refusal("refused").to_bytes(), answered.ledger)


def test_a_ledger_that_cannot_be_read_takes_no_answer_away(
    clients: list[Client], run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(own: Ledger) -> bytes:
        raise OSError(PRIVATE_TEXT)

    endpoint = Endpoint(clients[0])
    endpoint.handle("enrol", run.to_bytes())
    monkeypatch.setattr(Ledger, "to_bytes", fail)
    with caplog.at_level(logging.DEBUG):
        reply = Reply.from_bytes(endpoint.handle("ask", query(run).data))
    assert reply.ledger == b""
    assert Message.from_bytes(reply.answer).client_id == "c0"
    assert {record.name for record in caplog.records} == {"private_distdd_client.c0"}


def test_an_answer_that_is_no_bytes_is_refused(clients: list[Client], run: Run) -> None:
    class Odd(Client):
        def answer(self, query: Query) -> Any:
            return argparse.Namespace(data=None)

    own = Odd("c0", ImageDataset(torch.zeros(1, *run.info.shape), torch.zeros(1, dtype=torch.int64), run.info))
    reply = Reply.from_bytes(Endpoint(own).handle("ask", query(run).data))
    assert reply == Reply(Refusal("failed").to_bytes(), own.ledger.to_bytes())
