"""The engine over Flower, against a grid in this process that loses, delays, garbles, repeats and fails."""

from __future__ import annotations

import functools
import itertools
import logging
import math
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("flwr")  # it needs Python 3.11

from grid import FakeGrid, Node, error_to, framed, other_content
from small_distdd import NOISY, Small, members

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.engines import flower
from private_distdd.engines.flower import FlowerEngine
from private_distdd.engines.forwarder import frame_of
from private_distdd.errors import ConfigurationError, NotPrivateWarning, QueryRefusedError
from private_distdd.site.client import Client
from private_distdd.wire.engine import ASK, ENROL, LEDGER, Engine, ExchangeInterrupted
from private_distdd.wire.frame import PING, response_frame
from private_distdd.wire.reply import Reply
from private_distdd.wire.run import Enrolment, Run

if TYPE_CHECKING:
    from flwr.app import Message

MakeImages = Callable[..., ImageDataset]
pytestmark = pytest.mark.usefixtures("flower_task")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake grid answers at once, so that nobody need wait."""
    for name, seconds in {"POLL": 0.001, "LOOK": 0.002, "SILENCE": 0.02}.items():
        monkeypatch.setattr(flower, name, seconds)


@pytest.fixture
def clients(make_images: MakeImages) -> list[Client]:
    return members(make_images)


@pytest.fixture
def grid(clients: list[Client]) -> FakeGrid:
    return FakeGrid(*clients)


@pytest.fixture
def run(tiny_info: DatasetInfo) -> Run:
    return Run("run-1", tiny_info, NOISY.plan(3))


engine_of = functools.partial(FlowerEngine, patience=0.1)


def enrol(engine: FlowerEngine, run: Run, **limits: Any) -> dict[str, bytes | None]:
    return dict(engine.exchange(ENROL, dict.fromkeys(engine.client_ids, run.to_bytes()), **limits))


def agreed(replies: dict[str, bytes | None]) -> list[str]:
    """Whose enrolment came, in the order of their names; each says its own name."""
    found = []
    for name, data in sorted(replies.items()):
        if data is not None:
            assert Enrolment.from_bytes(Reply.from_bytes(data).answer).client_id == name
            found.append(name)
    return found


def test_a_method_runs_over_it_as_in_one_process(make_images: MakeImages, tiny_info: DatasetInfo) -> None:
    method = Small(privacy=None)
    with pytest.warns(NotPrivateWarning):
        expected = method.fit(members(make_images))
    grid = FakeGrid(*members(make_images, allow_without_privacy=True))
    engine = engine_of(grid, 3)
    assert isinstance(engine, Engine)
    with pytest.warns(NotPrivateWarning):
        release = method.fit(engine, info=tiny_info)
    assert release.dataset.images.equal(expected.dataset.images)
    assert release.epsilon.keys() == {"c0", "c1", "c2"}
    assert [node.operations for node in grid.nodes.values()] == [
        [PING, ENROL, *[ASK] * 5, LEDGER]
    ] * 3  # one asks for counts


def test_those_named_are_invited_and_the_absent_may_come(grid: FakeGrid, run: Run) -> None:
    late = grid.go(2)
    engine, told = engine_of(grid, ["c2", "c1"]), list[str]()
    engine.came = told.append
    assert engine.client_ids == ("c2", "c1")
    assert agreed(enrol(engine, run)) == ["c2"]
    assert told == ["c2"]
    grid.nodes[9] = late
    assert agreed(enrol(engine, run)) == ["c1", "c2"]
    assert sorted(told) == ["c1", "c2", "c2"]
    assert grid.nodes[1].operations == [PING]  # c0 was asked for its name, and for nothing else


@pytest.mark.parametrize("clients_wanted", [4, ["c7"], 0, [], True])
def test_too_few_sites_are_an_error(grid: FakeGrid, clients_wanted: Any) -> None:
    with pytest.raises(ConfigurationError):
        engine_of(grid, clients_wanted)


def test_bad_arguments_are_refused(grid: FakeGrid) -> None:
    with pytest.raises(QueryRefusedError):
        engine_of(grid, ["../c0"])
    for patience in (0, -1, math.nan, math.inf, "1"):
        with pytest.raises(ConfigurationError, match="patience"):
            FlowerEngine(grid, 3, patience=patience)


def test_so_many_are_the_first_ones(grid: FakeGrid, run: Run) -> None:
    engine = engine_of(grid, 2)
    assert engine.client_ids == ("c0", "c1")
    assert agreed(enrol(engine, run)) == ["c0", "c1"]


def test_of_two_nodes_with_one_name_the_second_is_refused(
    grid: FakeGrid, run: Run, make_images: MakeImages, caplog: pytest.LogCaptureFixture
) -> None:
    engine = engine_of(grid, 3)
    honest, other = grid.nodes[1], Node(Client("c0", make_images(3)))
    grid.nodes[7] = other
    assert agreed(enrol(engine, run)) == ["c0", "c1", "c2"]
    assert other.operations == []
    grid.go(2)  # somebody is missing now: strangers are asked who they are
    with caplog.at_level(logging.WARNING):
        assert agreed(enrol(engine, run)) == ["c0", "c2"]
    assert "node 7 is refused: node 1 is client c0 already" in caplog.text
    assert agreed(enrol(engine, run)) == ["c0", "c2"]  # both are known now, and the first one serves
    assert other.operations == [PING]
    grid.go(1)
    assert agreed(enrol(engine, run)) == ["c0", "c2"]
    assert honest.operations == [PING, ENROL, ENROL, ENROL]
    assert other.operations == [PING, ENROL]


def test_a_node_that_claims_a_stranger_s_name_is_not_asked(grid: FakeGrid, run: Run, make_images: MakeImages) -> None:
    grid.nodes[7] = stranger = Node(Client("c7", make_images(3)))
    engine = engine_of(grid, ["c0", "c1"])
    grid.go(1)
    assert agreed(enrol(engine, run)) == ["c1"]
    assert set(stranger.operations) <= {PING}


@pytest.mark.parametrize("number", [1, 9])
def test_a_node_that_comes_back_meanwhile_is_found(grid: FakeGrid, run: Run, number: int) -> None:
    engine = FlowerEngine(grid, 3, patience=30.0)
    gone = grid.go(1)

    def back(looks: int) -> None:
        if looks > 5:
            grid.nodes[number] = gone

    grid.on_look = back
    assert agreed(enrol(engine, run)) == ["c0", "c1", "c2"]


def test_a_node_that_ends_meanwhile_is_absent(grid: FakeGrid, run: Run) -> None:
    engine = engine_of(grid, 3)
    grid.on_pull = lambda _: grid.nodes.get(2) and grid.go(2)
    assert agreed(enrol(engine, run)) == ["c0", "c2"]


def test_a_node_that_the_grid_does_not_know_any_more_is_absent(grid: FakeGrid, run: Run) -> None:
    engine = engine_of(grid, 3)
    del grid.nodes[3]
    listed = [1, 2, 3]
    grid.get_node_ids = lambda: listed  # type: ignore[method-assign]
    assert agreed(enrol(engine, run)) == ["c0", "c1"]


def flipped(node: Node, message: Message) -> Message:
    frame = bytearray(frame_of(node.answer(message)))
    frame[-1] ^= 1
    return framed(message, bytes(frame))


FAULTS: dict[str, Callable[[Node, Message], Any]] = {
    "lost": lambda node, message: None,
    "an error": lambda node, message: error_to(message, 2),
    "no frame": lambda node, message: other_content(message),
    "no bytes": lambda node, message: framed(message, b""),
    "garbled": flipped,
    "cut": lambda node, message: framed(message, response_frame(b"12345")[:-2]),
    "too long": lambda node, message: framed(message, response_frame(b"12345") + b"6"),
    "an empty response": lambda node, message: framed(message, response_frame(b"")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_comes_of_one_node_the_others_bytes_are_theirs(
    grid: FakeGrid, run: Run, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = engine_of(grid, 3)
    grid.nodes[2].fault = lambda node, _, message: FAULTS[fault](node, message)
    with caplog.at_level(logging.INFO):
        assert agreed(enrol(engine, run, deadline=0.05)) == ["c0", "c2"]
    assert "text of the owner's data" not in caplog.text
    grid.nodes[2].fault = None
    assert agreed(enrol(engine, run)) == ["c0", "c1", "c2"]


def test_repeated_and_unasked_replies_change_nothing(grid: FakeGrid, run: Run) -> None:
    engine = engine_of(grid, 3)
    earlier: list[Message] = []

    def twice(node: Node, _: str, message: Message) -> list[Message]:
        earlier.append(node.answer(message))
        return [*earlier, earlier[-1]]

    for node in grid.nodes.values():
        node.fault = twice
    for _ in range(2):
        assert agreed(enrol(engine, run)) == ["c0", "c1", "c2"]


def test_a_late_reply_of_an_exchange_that_is_over_is_not_the_next_one_s(grid: FakeGrid, run: Run) -> None:
    engine = engine_of(grid, 3)
    held: list[Message] = []

    def late(node: Node, operation: str, message: Message) -> Any:
        held.append(node.answer(message))
        return held[:-1] if operation == LEDGER else None

    grid.nodes[1].fault = late
    assert agreed(enrol(engine, run, deadline=0.05)) == ["c1", "c2"]
    replies = engine.exchange(LEDGER, {"c0": b"", "c1": b""}, deadline=0.05)
    assert replies["c0"] is None
    assert replies["c1"] is not None


def test_a_request_that_a_node_lost_is_noticed_without_a_deadline(
    grid: FakeGrid, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    engine = engine_of(grid, 3)
    grid.nodes[2].fault = lambda node, operation, message: node.answer(message) if operation == PING else None
    with caplog.at_level(logging.INFO):
        assert agreed(enrol(engine, run)) == ["c0", "c2"]
    assert "client c1 is absent: node 2 lost the request" in caplog.text


@pytest.mark.parametrize("between", [False, True], ids=["in one look", "between two looks"])
def test_a_node_at_work_is_waited_for(grid: FakeGrid, run: Run, between: bool) -> None:
    engine, until = engine_of(grid, 3), time.monotonic() + 0.2
    pull, over = grid.pull_messages, False

    def slow(identifiers: Any) -> Any:  # node 2 answers nothing before its time, and its messages in order
        nonlocal over
        first, over = not over, over or time.monotonic() > until
        of_node = [m.metadata.message_id for m in grid.pushed if m.metadata.dst_node_id == 2]
        hidden = of_node if not over else of_node[1:2] if first and between else []  # the request: a ping was before
        return pull([name for name in identifiers if name not in hidden])

    grid.pull_messages = slow  # type: ignore[method-assign]
    assert agreed(enrol(engine, run)) == ["c0", "c1", "c2"]
    assert grid.nodes[2].operations[1] == (PING if between else ENROL)


def test_enough_replies_end_the_wait(grid: FakeGrid, run: Run) -> None:
    engine = engine_of(grid, 3)
    grid.nodes[1].fault = lambda *_: None
    assert agreed(enrol(engine, run, enough=2)) == ["c1", "c2"]


def test_deadline_is_the_message_s_life_and_the_request_s_expiry(grid: FakeGrid, run: Run) -> None:
    engine = engine_of(grid, 3)
    before = time.time()
    enrol(engine, run, deadline=50.0)
    assert {message.metadata.ttl for message in grid.pushed[-3:]} == {50.0}
    assert all(before + 50 <= node.expiries[-1] <= time.time() + 51 for node in grid.nodes.values())
    enrol(engine, run)
    assert all(node.expiries[-1] == 0 for node in grid.nodes.values())
    grid.nodes[1].fault = lambda *_: None
    began = time.monotonic()
    enrol(engine, run, deadline=0.0)
    assert grid.pushed[-1].metadata.ttl == 1.0
    assert time.monotonic() - began < 30


def test_ctrl_c_keeps_what_came(grid: FakeGrid, run: Run) -> None:
    engine = engine_of(grid, 3)

    pulls = itertools.count()

    def interrupt(_: int) -> None:
        if next(pulls) == 2:
            raise KeyboardInterrupt

    grid.nodes[1].fault = lambda *_: None
    grid.on_pull = interrupt
    with pytest.raises(ExchangeInterrupted) as caught:
        enrol(engine, run)
    assert agreed(dict(caught.value.replies)) == ["c1", "c2"]


def test_nobody_asked_is_nobody_s_reply(grid: FakeGrid) -> None:
    engine = engine_of(grid, 3)
    assert engine.exchange(ASK, {}) == {}


def test_without_flower_the_error_says_what_to_install(grid: FakeGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flwr.app", None)
    with pytest.raises(ConfigurationError, match=r"private-distdd\[flower\]"):
        engine_of(grid, 3)
