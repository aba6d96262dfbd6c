"""An engine that loses, delays, repeats and garbles: absent is not refused, and nobody pays twice for one message."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from faults import NAMES, PLAN, MakeImages, only_c0, paid, play, query
from hypothesis import given
from hypothesis import strategies as st
from wiring import Faulty, wanted

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.engines.in_process import InProcess
from private_distdd.errors import QueryRefusedError
from private_distdd.methods.distdd import DistDD
from private_distdd.privacy.ledger import Budget, Charge, Ledger, Sealed, parse
from private_distdd.privacy.plan import Privacy
from private_distdd.server.session import ABSENCES, TRIES, Session
from private_distdd.site.client import Client
from private_distdd.wire.engine import ASK, ENROL, LEDGER
from private_distdd.wire.query import Query
from private_distdd.wire.refusal import Refusal
from private_distdd.wire.reply import Reply
from private_distdd.wire.run import Run


@pytest.fixture
def clients(make_images: MakeImages) -> list[Client]:
    return [Client(name, make_images(6, seed=i)) for i, name in enumerate(NAMES)]


@pytest.fixture
def run(tiny_info: DatasetInfo) -> Run:
    return Run("run-1", tiny_info, PLAN)


GARBLED: dict[str, Callable[[bytes], bytes | None]] = {
    "lost": lambda reply: None,
    "empty": lambda reply: b"",
    "cut": lambda reply: reply[: len(reply) // 3],
    "noise": lambda reply: bytes(len(reply)),
    "longer": lambda reply: b"\xff" * 8 + reply,
    "no bytes": lambda reply: reply.hex(),  # type: ignore[return-value]
}


@pytest.mark.parametrize("how", sorted(GARBLED))
def test_what_is_lost_or_garbled_once_is_repeated_with_the_same_bytes_for_nothing(
    clients: list[Client], run: Run, how: str
) -> None:
    engine = Faulty(clients, only_c0(lambda n, reply: GARBLED[how](reply) if n == 0 else reply))
    session = Session(engine, run)
    assert play(session, run, 2) == [NAMES, NAMES]
    asked = [data for operation, name, data in engine.requests if (operation, name) == (ASK, "c0")]
    assert len(asked) == 3
    assert asked[0] == asked[1] == query(run, 0).data
    assert [paid(client) for client in clients] == [2, 2, 2]
    assert session.answered == dict.fromkeys(NAMES, 2)
    assert session.accounts().unaccounted == {}


@pytest.mark.parametrize("rounds_dead", range(1, ABSENCES))
def test_dead_for_two_rounds_and_back(clients: list[Client], run: Run, rounds_dead: int) -> None:
    dead = range(TRIES * rounds_dead)
    session = Session(Faulty(clients, only_c0(lambda n, reply: None if n in dead else reply)), run)
    assert play(session, run, rounds_dead + 2) == [NAMES[1:]] * rounds_dead + [NAMES] * 2
    assert session.active == NAMES
    accounts = session.accounts()
    assert accounts.unaccounted == {}
    assert paid(clients[0]) == rounds_dead + 2  # it had answered: what was lost on the way was paid for
    assert accounts.ledgers["c0"] == clients[0].ledger.to_bytes()


def test_dead_for_too_long_is_gone(clients: list[Client], run: Run) -> None:
    session = Session(Faulty(clients, only_c0(lambda n, reply: None)), run)
    assert play(session, run, ABSENCES + 1) == [NAMES[1:]] * (ABSENCES + 1)
    assert session.active == NAMES[1:]
    assert paid(clients[0]) == ABSENCES  # and it is not asked any more


def test_absences_count_in_a_row_only(clients: list[Client], run: Run) -> None:
    session = Session(Faulty(clients, only_c0(lambda n, reply: None if n % (TRIES + 1) < TRIES else reply)), run)
    assert play(session, run, 8) == [NAMES[1:], NAMES] * 4
    assert session.active == NAMES


def test_a_dead_client_takes_nothing_back(clients: list[Client], run: Run) -> None:
    """The ledger that came beside the last answer serves."""
    gone: set[str] = set()
    engine = Faulty(clients, lambda operation, name, n, reply: None if name in gone else reply)
    session = Session(engine, run)
    assert play(session, run, 2) == [NAMES, NAMES]
    gone.update(NAMES)
    accounts = session.accounts()
    assert accounts.unaccounted == {}
    for client in clients:
        data = accounts.ledgers[client.client_id]
        assert data == client.ledger.to_bytes()
        assert sum(isinstance(entry, Sealed) for entry in parse(data)) == 2


def test_a_refusal_is_final(clients: list[Client], make_images: MakeImages, run: Run) -> None:
    """Its budget pays two queries, whatever the engine would repeat."""
    poor = Client("c0", make_images(6), Ledger(None), plan=PLAN)
    session = Session(InProcess([poor, *clients[1:]]), run)
    assert play(session, run, 1) == [NAMES]
    other = Query(run.run_id, 1, "class_counts", {}, {}, PLAN)  # exists without privacy only
    answers = session.ask({"c0": wanted(["c0"], other, (3, 0))["c0"]})
    assert answers.messages == []
    assert session.active == NAMES[1:]
    assert paid(poor) == 1


def test_a_computation_that_fails_is_tried_again_in_the_next_round(
    clients: list[Client], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, calls = Client._private, []

    def fail(own: Client, *arguments: Any) -> Any:
        calls.append(own.client_id)
        if own.client_id == "c0" and calls.count("c0") <= 2:
            raise MemoryError("put in by a test")
        return private(own, *arguments)

    monkeypatch.setattr(Client, "_private", fail)
    session = Session(InProcess(clients), run)
    assert play(session, run, 3) == [NAMES[1:], NAMES[1:], NAMES]
    assert calls.count("c0") == 3  # once a round: the same query again would be a charge again
    assert paid(clients[0]) == 3
    assert session.accounts().unaccounted == {}


@pytest.mark.parametrize("lie", ["the round before", "another client's"])
def test_repeated_and_misdirected_replies_are_not_taken_for_answers(clients: list[Client], run: Run, lie: str) -> None:
    kept: list[bytes] = []

    def confuse(operation: str, name: str, n: int, reply: bytes) -> bytes | None:
        if operation != ASK:
            return reply
        if name == ("c0" if lie == "the round before" else "c1"):
            kept.append(reply)
        return kept[0] if name == "c0" and n == 1 else reply

    session = Session(Faulty([clients[1], clients[0], clients[2]], confuse), run)
    play(session, run, 3)
    assert session.answered == dict.fromkeys(NAMES, 3)
    assert [paid(client) for client in clients] == [3, 3, 3]


def test_a_site_that_was_started_anew_is_enrolled_again_and_repeats_its_bytes(
    make_images: MakeImages, clients: list[Client], run: Run, tmp_path: Any
) -> None:
    """Its ledger and outbox outlive it: the answer that was lost in the crash comes from there, and is paid once."""

    def start() -> Client:
        return Client("c0", make_images(6), Ledger(tmp_path / "c0.jsonl"))

    site = [start()]

    class Restarting(Faulty):
        def exchange(self, operation: str, requests: Mapping[str, bytes], **others: Any) -> Mapping[str, bytes | None]:
            replies = dict(super().exchange(operation, requests, **others))
            if operation == ASK and len(site) == 1 and self._counts[ASK, "c0"] == 2:
                site[0].ledger.close()
                site.insert(0, start())
                self.__init__([site[0], *clients[1:]], lambda *arguments: arguments[-1])  # type: ignore[misc]
                replies["c0"] = None
            return replies

    engine = Restarting([site[0], *clients[1:]], lambda *arguments: arguments[-1])
    session = Session(engine, run)
    assert play(session, run, 3) == [NAMES] * 3
    assert [operation for operation, name, _ in engine.requests if name == "c0"] == [ASK, ENROL, ASK, ASK]
    history = parse((tmp_path / "c0.jsonl").read_bytes())
    assert sum(isinstance(entry, Charge) for entry in history) == 3
    assert session.accounts().unaccounted == {}
    site[0].ledger.close()


def test_a_restarted_site_that_does_not_agree_again_leaves(
    make_images: MakeImages, clients: list[Client], run: Run
) -> None:
    engine = InProcess(clients)
    session = Session(engine, run)
    stranger = Client("c0", make_images(6), Ledger(None, Budget(1e-3, 1e-5)))
    engine.__init__([stranger, *clients[1:]])  # type: ignore[misc]
    assert play(session, run, 2) == [NAMES[1:]] * 2
    assert session.active == NAMES[1:]


def test_a_client_refuses_rounds_older_than_its_newest(clients: list[Client], run: Run) -> None:
    own = clients[0]
    own.enroll(run)
    own.answer(query(run, 4))
    again = own.answer(query(run, 4))  # a retry within the round
    for old in (0, 3):
        with pytest.raises(QueryRefusedError, match=f"round {old} after one of round 4"):
            own.answer(query(run, old))
    assert paid(own) == 1
    assert own.answer(query(run, 4)).data == again.data
    own.answer(query(run, 5))
    assert paid(own) == 2


def test_the_deadline_of_a_round_leaves_out_who_is_late(clients: list[Client], run: Run) -> None:
    waits: list[float | None] = []

    class Slow(InProcess):
        def exchange(self, operation: str, requests: Mapping[str, bytes], **others: Any) -> Mapping[str, bytes | None]:
            if operation == ASK:
                waits.append(others["deadline"])
            else:
                assert others["deadline"] == 30.0
            replies = dict(super().exchange(operation, requests, **{**others, "deadline": None}))
            return replies | ({"c0": None} if operation == ASK else {})  # c0 is late

    session = Session(Slow(clients), run, deadline=30.0)
    assert play(session, run, 1) == [NAMES[1:]]
    asked = [wait for wait in waits if wait is not None]
    assert len(asked) == TRIES
    assert 30.0 >= asked[0] >= asked[1] >= asked[2] > 20.0  # of the same deadline, what is left of it
    assert session.active == NAMES


def test_a_deadline_that_has_passed_asks_nobody_again(clients: list[Client], run: Run) -> None:
    engine = Faulty(clients, lambda operation, name, n, reply: None if operation == ASK else reply)
    session = Session(engine, run, deadline=1e-9)
    assert play(session, run, 1) == [[]]
    assert [operation for operation, *_ in engine.requests].count(ASK) == len(NAMES)


@pytest.mark.parametrize(
    ("quorum", "enough", "again"), [(1.0, 3, True), (0.67, 3, True), (0.6, 2, False), (0.01, 1, False)]
)
def test_a_quorum_ends_the_wait_for_the_others(
    clients: list[Client], run: Run, quorum: float, enough: int, again: bool
) -> None:
    told: list[int | None] = []

    class Counting(Faulty):
        def exchange(self, operation: str, requests: Mapping[str, bytes], **others: Any) -> Mapping[str, bytes | None]:
            if operation == ASK:
                told.append(others["enough"])
            return super().exchange(operation, requests, **others)

    session = Session(Counting(clients, only_c0(lambda n, reply: None if n == 0 else reply)), run, quorum=quorum)
    assert play(session, run, 1) == [NAMES if again else NAMES[1:]]
    assert told == [enough, *([enough - 2] if again else [])]


@pytest.mark.parametrize("operation", [ENROL, ASK, LEDGER])
def test_an_engine_that_raises_has_carried_nothing(clients: list[Client], run: Run, operation: str) -> None:
    class Broken(InProcess):
        def exchange(self, asked: str, requests: Mapping[str, bytes], **others: Any) -> Mapping[str, bytes | None]:
            if asked == operation:
                raise ConnectionError("the network is down")
            return super().exchange(asked, requests, **others)

    if operation == ENROL:
        with pytest.raises(QueryRefusedError, match="no client agrees"):
            Session(Broken(clients), run)
        return
    session = Session(Broken(clients), run)
    assert play(session, run, 1) == [[] if operation == ASK else NAMES]
    assert session.accounts().unaccounted == {}


@given(st.lists(st.sampled_from(["fine", "lost", "cut", "refused"]), min_size=12, max_size=12), st.integers(0, 2))
def test_whatever_happens_on_the_way_the_bill_is_true(tiny_info: DatasetInfo, fates: list[str], victim: int) -> None:
    """As many messages used as sealed at most, a charge for each, T_max never passed, and accounts that hold."""
    images = torch.randn((6, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    own = [Client(name, ImageDataset(images, torch.arange(6) % 3, tiny_info)) for name in NAMES]
    run = Run("run-1", tiny_info, PLAN)

    def fault(operation: str, name: str, n: int, reply: bytes) -> bytes | None:
        fate = fates[n % len(fates)] if (operation, name) == (ASK, NAMES[victim]) else "fine"
        if fate == "refused":
            return Reply(Refusal("refused").to_bytes(), Reply.from_bytes(reply).ledger).to_bytes()
        return {"fine": reply, "lost": None, "cut": reply[:-5000]}[fate]

    session = Session(Faulty(own, fault), run)
    play(session, run, 6)
    accounts = session.accounts()
    assert accounts.unaccounted == {}
    for client in own:
        sealed = {e.message_id for e in client.ledger if isinstance(e, Sealed)}
        assert session.answered[client.client_id] <= len(sealed) == paid(client) <= PLAN.max_queries
    others = [name for i, name in enumerate(NAMES) if i != victim]
    assert [session.answered[name] for name in others] == [6, 6]


def test_a_whole_run_over_a_bad_network_releases_a_sound_bill(clients: list[Client], tiny_info: DatasetInfo) -> None:
    def fault(operation: str, name: str, n: int, reply: bytes) -> bytes | None:
        return None if operation == ASK and (n + int(name[1])) % 3 == 0 else reply

    method = DistDD(
        ipc=1,
        rounds=4,
        model="mlp",
        model_args={"width": 8, "depth": 1},
        matching_steps=1,
        quorum=0.3,
        deadline=60.0,
        privacy=Privacy(target_epsilon=8.0),
    )
    release = method.fit(Faulty(clients, fault), info=tiny_info)
    release.verify()
    assert release.private
    used = {name: bill["messages_used"] for name, bill in release.card["clients"].items()}
    assert all(1 <= count < 4 for count in used.values())  # some were late: a quorum was there, and nobody left
    assert {bill["charges"] for bill in release.card["clients"].values()} == {4}
    assert max(release.epsilon.values()) <= 8.0 * (1 + 1e-6)


@pytest.mark.filterwarnings("ignore::private_distdd.errors.NotPrivateWarning")
def test_without_privacy_who_tells_no_counts_is_asked_for_no_share(
    clients: list[Client], tiny_info: DatasetInfo, tmp_path: Any
) -> None:
    """The run goes on with the others, and from its checkpoint too."""
    method = DistDD(ipc=1, rounds=2, model="mlp", model_args={"width": 8, "depth": 1}, matching_steps=1)
    lost = only_c0(lambda n, reply: None if n < TRIES else reply)
    release = method.fit(Faulty(clients, lost, simulated=True), info=tiny_info, checkpoint=tmp_path / "run")
    used = {name: bill["messages_used"] for name, bill in release.card["clients"].items()}
    assert used == {"c0": 0, "c1": 3, "c2": 3}
    again = method.fit(InProcess(clients, simulated=True), info=tiny_info, checkpoint=tmp_path / "run", resume=True)
    assert torch.equal(again.dataset.images, release.dataset.images)
    assert not again.failures()
