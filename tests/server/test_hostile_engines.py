"""Engines and clients that mean harm or return nonsense: what an attacker's review found, and does no harm now."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from faults import NAMES, PLAN, SHAPE, MakeImages, paid, play, query
from wiring import Faulty, wanted

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.engines.in_process import InProcess
from private_distdd.errors import CheckpointError, ConfigurationError
from private_distdd.methods.collabdm import CollabDM
from private_distdd.methods.distdd import DistDD
from private_distdd.privacy.ledger import Charge, Ledger, parse
from private_distdd.privacy.plan import Privacy
from private_distdd.server.session import Session, quorum_of
from private_distdd.site.client import Client
from private_distdd.wire.engine import ASK, ENROL, LEDGER
from private_distdd.wire.reply import Reply
from private_distdd.wire.run import Run


@pytest.fixture
def clients(make_images: MakeImages) -> list[Client]:
    return [Client(name, make_images(6, seed=i)) for i, name in enumerate(NAMES)]


@pytest.fixture
def run(tiny_info: DatasetInfo) -> Run:
    return Run("run-1", tiny_info, PLAN)


def test_an_older_checkpoint_is_refused_before_anybody_is_asked(
    make_images: MakeImages, tiny_info: DatasetInfo, tmp_path: Any
) -> None:
    """With privacy rounds are asked once: going on from before would lose every client, and then the run."""

    def federation() -> list[Client]:
        return [Client(name, make_images(6, i), Ledger(tmp_path / f"{name}.jsonl")) for i, name in enumerate(NAMES)]

    class StopError(Exception):
        pass

    def stop(record: Any) -> None:
        if record.server_round == 2:
            shutil.copytree(tmp_path / "run", tmp_path / "older")
        if record.server_round == 4:
            raise StopError

    privacy = Privacy(noise_multiplier=2.0)
    method = DistDD(
        ipc=1, rounds=6, model="mlp", model_args={"width": 8, "depth": 1}, matching_steps=1, privacy=privacy
    )
    own = federation()
    with pytest.raises(StopError):
        method.fit(own, checkpoint=tmp_path / "run", on_round_end=stop)
    for client in own:
        client.ledger.close()
    own = federation()
    before = [client.ledger.to_bytes() for client in own]
    with pytest.raises(CheckpointError, match="before round 3, and client 'c0' charged for round 4"):
        method.fit(own, checkpoint=tmp_path / "older", resume=True)
    assert [client.ledger.to_bytes() for client in own] == before
    release = method.fit(own, checkpoint=tmp_path / "run", resume=True)
    assert {bill["messages_used"] for bill in release.card["clients"].values()} == {6}
    for client in own:
        client.ledger.close()


@pytest.mark.parametrize("operation", [ENROL, ASK, LEDGER])
@pytest.mark.parametrize("how", ["flipped", "stale", "another's"])
def test_one_bad_ledger_beside_good_ones_does_no_harm(
    clients: list[Client], run: Run, operation: str, how: str
) -> None:
    first: dict[str, bytes] = {}

    def fault(asked: str, name: str, n: int, reply: bytes) -> bytes:
        found = Reply.from_bytes(reply)
        first.setdefault(name, found.ledger)
        if (asked, name, n) != (operation, "c0", 0):
            return reply
        bad = {
            "flipped": found.ledger[:40] + bytes([found.ledger[40] ^ 1]) + found.ledger[41:],
            "stale": first["c0"],
            "another's": Ledger(None, client_id="c1").to_bytes(),
        }[how]
        return Reply(found.answer, bad).to_bytes()

    session = Session(Faulty(clients, fault), run)
    assert play(session, run, 3) == [NAMES] * 3
    accounts = session.accounts()
    assert accounts.unaccounted == {}
    assert accounts.ledgers["c0"] == clients[0].ledger.to_bytes() or operation == LEDGER
    assert sum(isinstance(entry, Charge) for entry in parse(accounts.ledgers["c0"])) == 3


def test_a_ledger_rewritten_at_the_end_does_not_take_charges_off_the_bill(clients: list[Client], run: Run) -> None:
    rewritten = Client("c0", ImageDataset(torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64), run.info))
    rewritten.enroll(run)
    rewritten.answer(query(run, 0))

    def fault(operation: str, name: str, n: int, reply: bytes) -> bytes:
        return Reply(b"", rewritten.ledger.to_bytes()).to_bytes() if (operation, name) == (LEDGER, "c0") else reply

    session = Session(Faulty(clients, fault), run)
    play(session, run, 3)
    accounts = session.accounts()
    assert accounts.ledgers["c0"] == clients[0].ledger.to_bytes()
    assert paid(clients[0]) == 3


@pytest.mark.parametrize("operation", [ENROL, ASK, LEDGER])
@pytest.mark.parametrize(
    "nonsense",
    [None, [], 3, {"c0": 7}, {"c0": bytearray(b"x")}, {"c0": memoryview(b"x")}, {"who": b"x"}, {"c0": ["x"]}],
)
def test_whatever_an_engine_returns_ends_no_run(clients: list[Client], run: Run, operation: str, nonsense: Any) -> None:
    class Odd(InProcess):
        calls = 0

        def exchange(self, asked: str, requests: Mapping[str, bytes], **others: Any) -> Mapping[str, bytes | None]:
            found = super().exchange(asked, requests, **others)
            Odd.calls += asked == operation
            return nonsense if asked == operation and Odd.calls == 1 else found

    session = Session(Odd(clients), run)
    assert play(session, run, 2) == [NAMES] * 2
    assert session.accounts().unaccounted == {}


def test_one_garbler_does_not_use_up_the_quorum(make_images: MakeImages, run: Run) -> None:
    """An engine that waits for so many replies as it is told, and one client that is always first, with junk."""
    own = [Client(name, make_images(6, i)) for i, name in enumerate([*NAMES, "c3"])]
    told: list[tuple[int, int]] = []

    class Hasty(InProcess):
        def exchange(self, operation: str, requests: Mapping[str, bytes], **others: Any) -> Mapping[str, bytes | None]:
            if operation != ASK:
                return super().exchange(operation, requests, **others)
            told.append((others["enough"], len(requests)))
            chosen = dict(list(requests.items())[: others["enough"]])
            found = dict(super().exchange(operation, chosen, **others))
            return found | ({"c0": b"junk"} if "c0" in found else {})

    session = Session(Hasty(own), run, quorum=0.25)
    shape = wanted([*NAMES, "c3"], query(run), SHAPE)
    assert [m.client_id for m in session.ask(shape).messages] == ["c1"]
    assert all(0 < enough <= asked for enough, asked in told)


def test_a_quorum_is_large_enough_for_its_rule(clients: list[Client], tiny_info: DatasetInfo) -> None:
    for aggregator, quorum in (("median", 0.5), ("trimmed_mean(share=0.4)", 0.6)):
        with pytest.raises(ConfigurationError, match=r"of 2 clients|and 2 clients"):
            DistDD(aggregator=aggregator, quorum=quorum).schedule(NAMES)
        with pytest.raises(ConfigurationError, match=r"of 2 clients|and 2 clients"):
            CollabDM(aggregator=aggregator, quorum=quorum).schedule(NAMES)
        DistDD(aggregator=aggregator).schedule(NAMES)


@pytest.mark.parametrize(
    ("share", "count", "needed"),
    [(0.55, 100, 55), (0.07, 100, 7), (0.14, 50, 7), (0.28, 25, 7), (1.0, 3, 3), (0.01, 3, 1)],
)
def test_a_share_of_clients_is_rounded_up_and_no_further(share: float, count: int, needed: int) -> None:
    assert quorum_of(share, count) == needed


def test_the_same_query_twice_at_once_is_one_charge_and_one_message(clients: list[Client], run: Run) -> None:
    own = clients[0]
    own.enroll(run)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: own.answer(query(run)).data, range(8)))
    assert len(set(found)) == 1
    assert paid(own) == 1


def test_ctrl_c_while_a_restarted_site_agrees_again_keeps_the_messages(
    make_images: MakeImages, clients: list[Client], run: Run
) -> None:
    engine = InProcess(clients)
    session = Session(engine, run)

    class Stopped(InProcess):
        def exchange(self, operation: str, requests: Mapping[str, bytes], **others: Any) -> Mapping[str, bytes | None]:
            if operation == ENROL:
                raise KeyboardInterrupt
            return super().exchange(operation, requests, **others)

    session._line._engine = Stopped([Client("c0", make_images(6)), *clients[1:]])
    answers = session.ask(wanted(NAMES, query(run), SHAPE))
    assert answers.interrupted
    assert [message.client_id for message in answers.messages] == NAMES[1:]
    assert session.answered == {"c0": 0, "c1": 1, "c2": 1}


@pytest.mark.filterwarnings("ignore::private_distdd.errors.NotPrivateWarning")
def test_a_quorum_does_not_cut_preparations_short(clients: list[Client], tiny_info: DatasetInfo) -> None:
    """Counts and a start from real examples are wanted of everybody; an engine that hurries takes nobody out."""
    told: list[int] = []

    class Hasty(InProcess):
        def exchange(self, operation: str, requests: Mapping[str, bytes], **others: Any) -> Mapping[str, bytes | None]:
            if operation != ASK:
                return super().exchange(operation, requests, **others)
            told.append(others["enough"])
            chosen = dict(list(requests.items())[: others["enough"]])
            return dict.fromkeys(requests) | dict(super().exchange(operation, chosen, **others))

    method = DistDD(
        ipc=1, rounds=2, model="mlp", model_args={"width": 8, "depth": 1}, matching_steps=1, quorum=0.3,
        initialization="real",
    )  # fmt: skip
    release = method.fit(Hasty(clients, simulated=True), info=tiny_info)
    assert told == [3, 3, 1, 1]  # counts, examples, and two rounds with the first that answers
    assert not release.failures()
    assert {name: bill["messages_used"] for name, bill in release.card["clients"].items()} == {
        "c0": 4,
        "c1": 2,
        "c2": 2,
    }


def test_ctrl_c_while_a_resumed_run_looks_at_its_ledgers_is_ctrl_c(clients: list[Client], run: Run) -> None:
    play(Session(InProcess(clients), run), run, 1)

    class Stopped(InProcess):
        def exchange(self, operation: str, requests: Mapping[str, bytes], **others: Any) -> Mapping[str, bytes | None]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Session(Stopped(clients), run, dict.fromkeys(NAMES, 1), NAMES, begun=1)
    assert len(Session(InProcess(clients), run, dict.fromkeys(NAMES, 1), NAMES, begun=1).active) == 3
