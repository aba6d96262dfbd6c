"""The server's side of a run: whatever clients and engines do, the others' run goes on and the bill is true."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from wiring import Faulty, PerClient, wanted

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.engines.in_process import InProcess
from private_distdd.errors import QueryRefusedError
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.ledger import Budget, Ledger
from private_distdd.privacy.plan import Privacy
from private_distdd.release.build import build_release
from private_distdd.release.release import Release
from private_distdd.server.session import ABSENCES, Session
from private_distdd.site.client import Client
from private_distdd.synthetic.dataset import SyntheticDataset
from private_distdd.wire.message import Message, stack
from private_distdd.wire.packing import Packing
from private_distdd.wire.query import Query
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


SHAPE = (3, sum(p.numel() for p in SPEC.build((1, 8, 8), 3, 0).parameters()))
"""What every answer to `query` must look like."""


def test_it_tells_who_has_answered_as_answers_come(clients: list[Client], run: Run) -> None:
    session, told = Session(InProcess(clients), run), list[str]()
    session.told = told.append
    assert len(session.ask(wanted(session.active, query(run), SHAPE)).messages) == 3
    assert told[0] == "0 of 3 clients have replied"
    assert [text.partition(",")[0] for text in told] == [f"{n} of 3 clients have replied" for n in range(4)]
    assert told[2].startswith("2 of 3 clients have replied, not yet c")
    told.clear()
    session.accounts()  # the ledgers
    assert told[-1] == "3 of 3 clients have replied"


class Tampering(PerClient):
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
    "packed otherwise": altered(packing=Packing("int8", 1.0)),
}


MISSHAPEN = (
    "another shape",
    "counts under a plan",
    "packed otherwise",
)  # whole messages that say something else than was asked for


@pytest.mark.parametrize("lie", sorted(LIES))
def test_a_client_that_answers_nonsense_leaves_and_the_run_goes_on(clients: list[Client], run: Run, lie: str) -> None:
    """Bytes that can be read as no answer may be the engine's fault: they count as absence, and are asked for again."""
    session = Session(Tampering(clients, LIES[lie]), run)
    rounds = 1 if lie in MISSHAPEN else ABSENCES
    for server_round in range(rounds):
        assert session.active == ["c0", "c1", "c2"]
        answers = session.ask(wanted(["c0", "c1", "c2"], query(run, server_round), SHAPE))
        assert [m.client_id for m in answers.messages] == ["c1", "c2"]
    assert session.active == ["c1", "c2"]
    assert session.answered == {"c0": 0, "c1": rounds, "c2": rounds}
    accounts = session.accounts()
    assert set(accounts.ledgers) == {"c0", "c1", "c2"}
    assert accounts.unaccounted == {}  # nothing of c0's was used
    assert len(clients[0].ledger.events) == rounds  # asked again within a round, it repeats its bytes for nothing


class Losing(PerClient):
    """An engine whose client c0 has no ledger, or another one, from some moment on."""

    def __init__(self, clients: list[Client], spoil: Callable[[bytes], bytes], moment: str) -> None:
        super().__init__(clients)
        self._spoil, self._moment, self.over = spoil, moment, False

    def ask(self, client_id: str, query: bytes) -> bytes:
        if self._moment == "beside the answer":
            self.over = True
        return super().ask(client_id, query)

    def ledger(self, client_id: str) -> bytes:
        data = super().ledger(client_id)
        lost = self.over or self._moment == "from the start"
        return self._spoil(data) if client_id == "c0" and lost else data


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
}


@pytest.mark.parametrize("how", sorted(SPOILT))
@pytest.mark.parametrize("moment", ["from the start", "beside the answer", "at the end"])
def test_a_client_that_spoils_its_ledger_does_not_spoil_the_release(
    clients: list[Client], run: Run, tmp_path: Any, how: str, moment: str
) -> None:
    wire = Losing(clients, SPOILT[how], moment)
    session = Session(wire, run)
    pinned = clients[0].ledger.to_bytes()
    messages = session.ask(wanted(["c0", "c1", "c2"], query(run), SHAPE)).messages
    assert len(messages) == 3
    wire.over = True
    accounts = session.accounts()
    if moment == "at the end":  # the last known ledger serves: it came beside the message
        assert accounts.unaccounted == {}
        assert accounts.ledgers == {client.client_id: client.ledger.to_bytes() for client in clients}
        return
    assert accounts.unaccounted == {"c0": 1}
    known = {} if moment == "from the start" else {"c0": pinned}
    if how == "cut":  # whole lines, as far as they go: sound, and not enough
        known = {"c0": wire.ledger("c0")}
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
def test_nonsense_at_enrolment_is_no_refusal(clients: list[Client], run: Run, lie: str) -> None:
    """Its consent was garbled on the way: it is asked all the same, and answers, for it did agree."""
    session = Session(Tampering(clients, LIES[lie], enrolment=True), run)
    assert session.active == ["c0", "c1", "c2"]
    assert len(session.ask(wanted(session.active, query(run), SHAPE)).messages) == 3
    accounts = session.accounts()
    assert accounts.unaccounted == {}
    assert accounts.ledgers["c0"] == clients[0].ledger.to_bytes()


def test_a_client_that_never_hears_of_the_run_is_asked_until_it_counts_as_gone(clients: list[Client], run: Run) -> None:
    class Deaf(PerClient):
        def enroll(self, client_id: str, data: bytes) -> bytes:
            return b"" if client_id == "c0" else super().enroll(client_id, data)

    session = Session(Deaf(clients), run)
    for server_round in range(ABSENCES):
        assert session.active == ["c0", "c1", "c2"]
        answers = session.ask(wanted(["c0", "c1", "c2"], query(run, server_round), SHAPE))
        assert [m.client_id for m in answers.messages] == ["c1", "c2"]
    assert session.active == ["c1", "c2"]
    assert session.accounts().unaccounted == {}
    assert clients[0].ledger.events == ()


def test_a_session_without_clients_is_an_error(make_images: MakeImages, tiny_info: DatasetInfo) -> None:
    poor = [Client("c0", make_images(3), Ledger(None, Budget(0.1, 1e-5)))]
    with pytest.raises(QueryRefusedError, match="no client agrees"):
        Session(InProcess(poor), Run("run-1", tiny_info, PLAN))


def test_messages_stack(clients: list[Client], run: Run) -> None:
    session = Session(InProcess(clients), run)
    messages = session.ask(wanted(session.active, query(run), SHAPE)).messages
    values, counts = stack(messages)
    assert values.shape == (3, *messages[0].values.shape)
    assert counts is None


def test_all_bytes_of_both_directions_are_counted(clients: list[Client], run: Run) -> None:
    """Every try, whatever became of it: c0's first answer is lost, c1's is cut, c2's is no bytes."""
    arrived: list[tuple[str, int]] = []

    def fault(operation: str, name: str, number: int, reply: bytes) -> bytes | None:
        given = {"c0": None, "c1": reply[:100], "c2": 7}[name] if (operation, number) == ("ask", 0) else reply
        arrived.append((name, len(given) if isinstance(given, bytes) else 0))
        return given  # type: ignore[return-value]

    engine = Faulty(clients, fault)
    session = Session(engine, run, traffic={"c0": [1000, 2000]})
    assert len(session.ask(wanted(["c0", "c1", "c2"], query(run), SHAPE)).messages) == 3
    session.accounts()
    assert [name for name, _ in arrived] == ["c0", "c1", "c2"] * 4  # enrolment, two tries, ledger
    for name, (sent, received) in session.traffic.items():
        before = (1000, 2000) if name == "c0" else (0, 0)
        assert sent - before[0] == sum(length for other, length in arrived if other == name)
        assert received - before[1] == sum(len(request) for _, other, request in engine.requests if other == name)


def test_traffic_does_not_depend_on_the_data(make_images: MakeImages, run: Run) -> None:
    def traffic(*sizes: int) -> object:
        clients = [Client(f"c{i}", make_images(n, seed=i)) for i, n in enumerate(sizes)]
        session = Session(InProcess(clients), run)
        for server_round in range(2):
            session.ask(wanted(["c0", "c1", "c2"], query(run, server_round), SHAPE))
        return session.traffic

    assert traffic(6, 6, 6) == traffic(0, 1, 9)
