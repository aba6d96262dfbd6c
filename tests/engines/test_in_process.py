"""The wall between server and clients: bytes, fixed codes, and no text of any error."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.engines import in_process as transport
from private_distdd.engines.in_process import InProcess, Transport
from private_distdd.errors import BudgetExceededError, ConfigurationError, DataError, QueryRefusedError
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.ledger import Budget, Ledger
from private_distdd.privacy.plan import Privacy
from private_distdd.questions import register
from private_distdd.release.build import build_release
from private_distdd.release.release import Release
from private_distdd.server.allocation import stack
from private_distdd.server.session import Session
from private_distdd.site.client import Client
from private_distdd.synthetic.dataset import SyntheticDataset
from private_distdd.wire.message import Message
from private_distdd.wire.query import Query
from private_distdd.wire.refusal import Refusal
from private_distdd.wire.run import Enrolment, Run

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


def shape(client_id: str) -> tuple[int, int]:
    """What every answer to `query` must look like."""
    return 3, sum(p.numel() for p in SPEC.build((1, 8, 8), 3, 0).parameters())


def test_bytes_in_bytes_out(clients: list[Client], run: Run) -> None:
    wire = InProcess(clients)
    assert isinstance(wire, Transport)
    assert wire.client_ids == ("c0", "c1", "c2")
    assert transport.enroll(wire, "c1", run) == Enrolment("c1")
    reply = transport.ask(wire, "c1", query(run))
    assert isinstance(reply, Message)
    assert reply.query_digest == query(run).digest
    assert wire.ledger("c1") == clients[1].ledger.to_bytes()


def test_names_must_differ(clients: list[Client]) -> None:
    for bad in ([], [clients[0], clients[0]]):
        with pytest.raises(ConfigurationError, match="clients"):
            InProcess(bad)


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
    wire = InProcess(clients)
    wire.enroll("c0", run.to_bytes())

    def fail(*_: Any) -> Iterator[Any]:
        raise error

    monkeypatch.setattr(register.ClassGradients, "rows", fail)
    with caplog.at_level(logging.DEBUG):
        reply = wire.ask("c0", query(run).data)
    assert reply == Refusal(code).to_bytes()
    assert b"Meier" not in reply
    assert transport.ask(wire, "c0", query(run)) == Refusal(code)
    assert {record.name for record in caplog.records} == {"private_distdd_client.c0"}  # the client's own log has it
    assert len(clients[0].ledger.events) == 2  # a try each


def test_errors_of_enrolment_do_not_cross_either(
    clients: list[Client], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise ValueError(PRIVATE_TEXT)

    monkeypatch.setattr(Client, "enroll", fail)
    assert InProcess(clients).enroll("c0", run.to_bytes()) == Refusal("failed").to_bytes()


def test_malformed_queries_are_refused_by_code(clients: list[Client], run: Run) -> None:
    wire = InProcess(clients)
    wire.enroll("c0", run.to_bytes())
    good = query(run).data
    for bad in (b"", b"x", good[:-1], good + b"x", b"{}"):
        assert wire.ask("c0", bad) == Refusal("refused").to_bytes()
        assert wire.enroll("c0", bad) == Refusal("refused").to_bytes()
    assert clients[0].ledger.events == ()


def test_an_unknown_client_is_a_failure_without_a_name(clients: list[Client], run: Run) -> None:
    assert InProcess(clients).ask("nobody", query(run).data) == Refusal("failed").to_bytes()


class Tampering(InProcess):
    """A transport whose client c0 answers whatever it is told to."""

    def __init__(self, clients: list[Client], change: Callable[[bytes], bytes], enrolment: bool = False) -> None:
        super().__init__(clients)
        self._change, self._enrolment = change, enrolment

    def enroll(self, client_id: str, run: bytes) -> bytes:
        reply = super().enroll(client_id, run)
        return self._change(reply) if client_id == "c0" and self._enrolment else reply

    def ask(self, client_id: str, query: bytes) -> bytes:
        reply = super().ask(client_id, query)
        return self._change(reply) if client_id == "c0" and not self._enrolment else reply


def altered(**changes: Any) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        own = Message.from_bytes(data)
        names = ("client_id", "message_id", "query_digest", "values", "counts")
        return Message(**({name: getattr(own, name) for name in names} | changes)).data

    return change


LIES = {
    "nothing": lambda data: b"",
    "noise": lambda data: b"\x00" * 100,
    "half": lambda data: data[: len(data) // 2],
    "broken refusal": lambda data: b'{"kind":"refusal","code":',
    "nested": lambda data: b'{"a":' * 100_000,
    "array": lambda data: b"[]",
    "another shape": altered(values=torch.zeros(1, 1)),
    "counts under a plan": altered(counts=torch.ones(3, dtype=torch.int64)),
    "NaN": altered(values=torch.full((3, 10), float("nan"))),
    "another's name": altered(client_id="c1"),
    "another round": altered(message_id="run-1:000009"),
    "another query": altered(query_digest="0" * 64),
}


@pytest.mark.parametrize("lie", sorted(LIES))
def test_a_client_that_answers_nonsense_leaves_and_the_run_goes_on(clients: list[Client], run: Run, lie: str) -> None:
    session = Session(Tampering(clients, LIES[lie]), run)
    messages = session.ask(["c0", "c1", "c2"], lambda client_id: query(run), shape)
    assert [m.client_id for m in messages] == ["c1", "c2"]
    assert session.active == ["c1", "c2"]
    assert session.answered == {"c0": 0, "c1": 1, "c2": 1}
    accounts = session.accounts()
    assert set(accounts.ledgers) == {"c0", "c1", "c2"}
    assert accounts.unaccounted == {}  # nothing of c0's was used


class Losing(InProcess):
    """A transport whose client c0 has no ledger, or another one, from some moment on."""

    def __init__(self, clients: list[Client], spoil: Callable[[bytes], bytes]) -> None:
        super().__init__(clients)
        self._spoil, self.lost = spoil, False

    def ledger(self, client_id: str) -> bytes:
        data = super().ledger(client_id)
        return self._spoil(data) if client_id == "c0" and self.lost else data


def gone(data: bytes) -> bytes:
    raise OSError("the site is down")


SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "missing": gone,
    "empty": lambda data: b"",
    "garbage": lambda data: b"\x00" * 100,
    "torn": lambda data: data[:-3],
    "cut": lambda data: data[: data[:-1].rfind(b"\n") + 1],
    "new": lambda data: Ledger(None).to_bytes(),
    "another's": lambda data: Ledger(None, client_id="c1").to_bytes(),
    "text": lambda data: data.decode(),  # type: ignore[dict-item,return-value]
}


@pytest.mark.parametrize("how", sorted(SPOILT))
@pytest.mark.parametrize("from_start", [False, True])
def test_a_client_that_spoils_its_ledger_does_not_spoil_the_release(
    clients: list[Client], run: Run, tmp_path: Any, how: str, from_start: bool
) -> None:
    wire = Losing(clients, SPOILT[how])
    wire.lost = from_start and how != "another's"
    session = Session(wire, run)
    pinned = clients[0].ledger.to_bytes()
    messages = session.ask(["c0", "c1", "c2"], lambda client_id: query(run), shape)
    assert len(messages) == 3
    wire.lost = True
    accounts = session.accounts()
    assert accounts.unaccounted == {"c0": 1}
    known = {} if from_start and how != "another's" else {"c0": pinned}
    assert accounts.ledgers == known | {name: wire.ledger(name) for name in ("c1", "c2")}
    images = torch.zeros(3, 1, 8, 8)
    release = build_release(
        SyntheticDataset(images, torch.arange(3), run.info),
        run,
        accounts.ledgers,
        method="DistDD",
        settings={"ipc": 1, "rounds": 3, "matching_steps": 1, "privacy": dataclasses.asdict(PRIVACY)},
        seeds="none",
        progress={"rounds_planned": 3, "rounds_done": 1, "matching_steps": 1, "stopped_early": True},
        messages=session.answered,
        unaccounted=accounts.unaccounted,
    )
    assert not release.private
    assert release.epsilon["c0"] == math.inf
    assert 0 < release.epsilon["c1"] < math.inf
    found = Release.load(release.save(tmp_path / "release"))
    found.verify()
    assert "No guarantee for <b>c0</b>" in (tmp_path / "release" / "card.html").read_text()
    for changed in ({"private": True}, {"unaccounted": {}}, {"unaccounted": {"c0": 7}}):
        card = {**found.card, **changed}
        worse = Release(found.dataset, card, found.ledgers)
        assert worse.failures() or changed == {"unaccounted": {"c0": 7}}


@pytest.mark.parametrize("lie", ["nothing", "noise", "half", "broken refusal", "nested", "array"])
def test_nonsense_at_enrolment_is_no_consent(clients: list[Client], run: Run, lie: str) -> None:
    session = Session(Tampering(clients, LIES[lie], enrolment=True), run)
    assert session.active == ["c1", "c2"]


def test_a_session_without_clients_is_an_error(make_images: MakeImages, tiny_info: DatasetInfo) -> None:
    poor = [Client("c0", make_images(3), Ledger(None, Budget(0.1, 1e-5)))]
    with pytest.raises(QueryRefusedError, match="no client agrees"):
        Session(InProcess(poor), Run("run-1", tiny_info, PLAN))


def test_a_session_s_running_bill(clients: list[Client], run: Run) -> None:
    session = Session(InProcess(clients), run)
    assert session.epsilon() == dict.fromkeys(["c0", "c1", "c2"], 0.0)
    session.ask(["c0", "c2"], lambda client_id: query(run), shape)
    bill = session.epsilon()
    assert bill["c1"] == 0.0
    assert bill["c0"] == bill["c2"] == clients[0].ledger.epsilon(1e-5, "rdp") > 0


def test_messages_stack(clients: list[Client], run: Run) -> None:
    session = Session(InProcess(clients), run)
    messages = session.ask(session.active, lambda client_id: query(run), shape)
    values, counts = stack(messages)
    assert values.shape == (3, *messages[0].values.shape)
    assert counts is None
