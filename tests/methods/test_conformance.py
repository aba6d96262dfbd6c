"""What every method must do, whatever it asks and however it matches: the bill, the wall of bytes, the endings."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import math
import os
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from wiring import PerClient

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.engines.in_process import InProcess
from private_distdd.errors import CheckpointError, ConfigurationError, ModelError, NotPrivateWarning, QueryRefusedError
from private_distdd.methods.collabdm import CollabDM
from private_distdd.methods.distdd import DistDD
from private_distdd.privacy.accountants import best_epsilon
from private_distdd.privacy.events import NotPrivate, SampledGaussian
from private_distdd.privacy.ledger import Budget, Charge, Ledger, Pin, Sealed
from private_distdd.privacy.ledger.entries import encode
from private_distdd.privacy.mechanism import SampledGaussianMechanism
from private_distdd.privacy.plan import Privacy
from private_distdd.privacy.randomness import InsecureRandomness
from private_distdd.release.release import Release
from private_distdd.server.checkpoint import STATE
from private_distdd.server.record import RoundRecord
from private_distdd.site.client import Client
from private_distdd.wire.message import Message
from private_distdd.wire.query import Query
from private_distdd.wire.refusal import Refusal

MakeImages = Callable[..., ImageDataset]
NOISY = Privacy(noise_multiplier=5.0, sample_rate=0.5, delta=1e-5)


@dataclass(frozen=True)
class Case:
    """A method with small settings; every default that is a matter of measurement is pinned.

    Args:
        make: the method, to be called with knobs.
        queries: T_max of its private run.
        statistic: the one that a private run asks for.
        counts: knobs that are whole numbers of at least 1.
        numbers: knobs that are finite numbers above 0.
        draws: its runs without privacy draw real images over the clients in their order, some of every class.
    """

    make: Callable[..., Any]
    queries: int
    question: str
    counts: tuple[str, ...]
    numbers: tuple[str, ...]
    draws: bool = False


COLLABDM = functools.partial(
    CollabDM,
    ipc=1,
    partition=2,
    networks=3,
    model="mlp",
    model_args={"width": 16, "depth": 1},
    pool=1,
    frequencies=8,
    bandwidth=0.5,
    augment=True,
    aggregator="mean",
    matching_steps=4,
    matching_rate=0.1,
    smoothness=0.1,
    local_steps=0,
)


def local_start(**knobs: Any) -> CollabDM:
    """Its runs without privacy start from images that clients distilled by themselves."""
    method: CollabDM = COLLABDM(**({"local_steps": 0 if knobs.get("privacy") else 2} | knobs))
    return method


CASES = {
    "DistDD": Case(
        functools.partial(
            DistDD,
            ipc=1,
            rounds=2,
            model="mlp",
            model_args={"width": 8, "depth": 1},
            matching_steps=2,
            matching_rate=0.1,
            network_steps=0,
            reinit_every=1,
            memory=1,
            aggregator="mean",
            distance="cosine",
        ),
        2,
        "class_gradients",
        ("ipc", "rounds", "matching_steps", "memory"),
        ("matching_rate", "network_rate"),
    ),
    "CollabDM": Case(
        COLLABDM,
        1,
        "class_embeddings",
        ("ipc", "partition", "networks", "frequencies", "pool", "matching_steps"),
        ("matching_rate", "bandwidth"),
    ),
    "CollabDM, local start": Case(
        local_start,
        1,
        "class_embeddings",
        ("ipc", "partition", "networks", "frequencies", "pool", "matching_steps"),
        ("matching_rate", "bandwidth"),
        draws=True,
    ),
}


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


class Wire(PerClient):
    """Notes all that crosses the wire; some clients refuse the method's queries from some round on."""

    def __init__(self, clients: Sequence[Client], refuse: Collection[str] = (), at: int = 0) -> None:
        super().__init__(clients)
        self.enrolments: list[bytes] = []
        self.answers: list[tuple[str, Query, bytes]] = []
        self._refuse, self._at = refuse, at

    def enroll(self, client_id: str, run: bytes) -> bytes:
        assert type(run) is bytes
        self.enrolments.append(super().enroll(client_id, run))
        return self.enrolments[-1]

    def ask(self, client_id: str, query: bytes) -> bytes:
        assert type(query) is bytes
        asked = Query.from_bytes(query)
        if client_id in self._refuse and asked.server_round >= self._at:
            return Refusal("refused").to_bytes()
        self.answers.append((client_id, asked, super().ask(client_id, query)))
        return self.answers[-1][2]


def members(make_images: MakeImages, count: int = 3, n: int = 9, **arguments: Any) -> list[Client]:
    return [Client(f"c{i}", make_images(n, seed=i), **arguments) for i in range(count)]


def fit(method: Any, clients: Sequence[Client] | InProcess, **arguments: Any) -> Release:
    """The release; a run without privacy must warn, a private one must not."""
    if isinstance(clients, InProcess):
        arguments.setdefault("info", next(iter(clients._clients.values())).info)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        release: Release = method.fit(clients, **arguments)
    assert [w.category for w in caught] == ([] if method.privacy else [NotPrivateWarning])
    return release


def charges(data: bytes) -> list[Charge]:
    return [entry for entry in Ledger.parse(data) if isinstance(entry, Charge)]


def checked(release: Release, tmp_path: Path) -> Release:
    """Verified as it is, and after a way through a folder."""
    release.verify()
    json.dumps(release.card, allow_nan=False)
    assert bool(torch.isfinite(release.dataset.images).all())
    release.save(tmp_path / "out")
    loaded = Release.load(tmp_path / "out")
    loaded.verify()
    assert torch.equal(loaded.dataset.images, release.dataset.images)
    assert loaded.ledgers == release.ledgers
    return loaded


# The bill


@pytest.mark.parametrize("privacy", [NOISY, None], ids=["private", "open"])
def test_each_message_is_bytes_and_one_charge(
    make_images: MakeImages, tmp_path: Path, case: Case, privacy: Privacy | None
) -> None:
    clients = members(make_images, allow_without_privacy=privacy is None)
    wire = Wire(clients)
    release = checked(fit(case.make(privacy=privacy), wire), tmp_path)
    for client in clients:
        own = [(query, data) for client_id, query, data in wire.answers if client_id == client.client_id]
        entries = list(Ledger.parse(client.ledger.to_bytes()))
        pins = [Pin] if privacy else []
        assert [type(entry) for entry in entries[1:]] == pins + [Charge, Sealed] * len(own)
        assert [charge.message_id for charge in charges(client.ledger.to_bytes())] == [q.message_id for q, _ in own]
        assert [e.digest for e in entries if isinstance(e, Sealed)] == [hashlib.sha256(d).hexdigest() for _, d in own]
        event = privacy.plan(case.queries).event if privacy else NotPrivate()
        assert list(client.ledger.events) == [event] * len(own)
        assert release.ledgers[client.client_id] == client.ledger.to_bytes()
        bill = release.card["clients"][client.client_id]
        assert bill["charges"] == len(own)
        for query, data in own:
            message = Message.from_bytes(data)
            assert type(data) is bytes
            assert message.data == data
            assert message.query_digest == query.digest
            assert (message.counts is None) == (privacy is not None)
        if privacy:
            assert len(own) == case.queries == bill["messages_used"]


def test_the_bill_is_what_the_accountants_say(make_images: MakeImages, case: Case) -> None:
    plan = NOISY.plan(case.queries)
    release = fit(case.make(privacy=NOISY), members(make_images))
    assert release.private
    assert release.card["plan"] == plan.to_json()
    assert release.epsilon == dict.fromkeys(("c0", "c1", "c2"), best_epsilon([plan.schedule], 1e-5))
    assert release.card["clients"]["c0"]["spent"] == release.card["clients"]["c0"]["claim"]
    target = Privacy(target_epsilon=0.7, sample_rate=0.5)
    spent = fit(case.make(privacy=target), members(make_images, 2)).epsilon["c1"]
    assert 0.69 < spent <= 0.7
    poor = [Client("c0", make_images(9), Ledger(None, Budget(0.7, 1e-5)))]  # just enough
    assert fit(case.make(privacy=target), poor).epsilon["c0"] == spent


def test_the_charge_is_on_disk_before_a_message_exists_and_the_seal_before_it_leaves(
    make_images: MakeImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    paths = [tmp_path / f"c{i}.jsonl" for i in range(2)]
    clients = [Client(f"c{i}", make_images(9, seed=i), Ledger(path)) for i, path in enumerate(paths)]
    synced: dict[int, int] = {}  # inode -> bytes known to be on disk
    fsync, release = os.fsync, SampledGaussianMechanism.measure
    noted: list[str] = []

    def on_disk(path: Path) -> Any:
        status = path.stat()
        assert synced.get(status.st_ino) == status.st_size  # nothing of it is in a cache only
        return Ledger.parse(path.read_bytes())

    def spied_fsync(handle: int) -> None:
        fsync(handle)
        status = os.fstat(handle)
        synced[status.st_ino] = status.st_size

    def spied_release(*arguments: Any) -> Any:
        newest = [list(on_disk(path))[-1] for path in paths]
        assert sum(isinstance(entry, Charge) for entry in newest) == 1  # this client's; the others' are sealed
        noted.append("release")
        return release(*arguments)

    class Watched(PerClient):
        def ask(self, client_id: str, query: bytes) -> bytes:
            data = super().ask(client_id, query)
            sealed = list(on_disk(tmp_path / f"{client_id}.jsonl"))[-1]
            assert isinstance(sealed, Sealed)
            assert sealed.message_id == Query.from_bytes(query).message_id
            assert sealed.digest == hashlib.sha256(data).hexdigest()
            noted.append("message")
            return data

    monkeypatch.setattr(os, "fsync", spied_fsync)
    monkeypatch.setattr(SampledGaussianMechanism, "measure", spied_release)
    fit(case.make(privacy=NOISY), Watched(clients)).verify()
    assert noted == ["release", "message"] * 2 * case.queries
    for client in clients:
        client.ledger.close()


def test_without_privacy_it_is_said_everywhere(make_images: MakeImages, tmp_path: Path, case: Case) -> None:
    clients, records = members(make_images), list[RoundRecord]()
    release = checked(fit(case.make(privacy=None), clients, on_round_end=records.append), tmp_path)
    assert not release.private
    assert release.card["noise_model"] == "none"
    assert release.card["plan"] is None
    assert "NOT PRIVATE" in (tmp_path / "out" / "card.html").read_text()
    assert set(release.epsilon.values()) == {math.inf}
    assert all(set(record.epsilon.values()) == {math.inf} for record in records)
    assert all(event == NotPrivate() for client in clients for event in client.ledger.events)


def test_an_insecure_client_makes_the_release_not_private(make_images: MakeImages, tmp_path: Path, case: Case) -> None:
    clients = [*members(make_images, 2), Client("x", make_images(9), randomness=InsecureRandomness(0))]
    release = checked(fit(case.make(privacy=NOISY), clients), tmp_path)
    assert not release.private
    assert release.epsilon["x"] == math.inf
    assert math.isfinite(release.epsilon["c0"])


def test_a_budget_that_cannot_pay_stays_out_and_spends_nothing(
    make_images: MakeImages, tmp_path: Path, caplog: pytest.LogCaptureFixture, case: Case
) -> None:
    clients = [*members(make_images, 2), Client("poor", make_images(9), Ledger(None, Budget(0.2, 1e-5)))]
    before = clients[2].ledger.to_bytes()
    with caplog.at_level(logging.WARNING):
        release = checked(fit(case.make(privacy=NOISY), clients), tmp_path)
    assert set(release.epsilon) == {"c0", "c1"}
    assert clients[2].ledger.to_bytes() == before
    assert "client poor does not take part: budget" in caplog.text
    with pytest.raises(QueryRefusedError, match="no client agrees"):
        fit(case.make(privacy=NOISY), clients[2:])
    with pytest.raises(QueryRefusedError, match="no client agrees"), pytest.warns(NotPrivateWarning):
        case.make(privacy=None).fit(clients[2:])
    assert clients[2].ledger.to_bytes() == before


def test_behind_a_transport_only_owners_allow_a_run_without_privacy(make_images: MakeImages, case: Case) -> None:
    """In one process the caller is the owner of all data, and is warned; beyond it a server may not decide."""
    method = case.make(privacy=None)
    clients = members(make_images)
    before = [client.ledger.to_bytes() for client in clients]
    with pytest.warns(NotPrivateWarning), pytest.raises(QueryRefusedError, match="no client agrees"):
        method.fit(Wire(clients), info=clients[0].info)
    assert [client.ledger.to_bytes() for client in clients] == before
    assert not fit(method, clients).private
    with pytest.warns(NotPrivateWarning), pytest.raises(QueryRefusedError, match="no client agrees"):
        method.fit(Wire(clients), info=clients[0].info)  # allowed for that one run
    refusing = members(make_images, allow_without_privacy=False)
    with pytest.warns(NotPrivateWarning), pytest.raises(QueryRefusedError, match="no client agrees"):
        method.fit(refusing)


class Spoiling(Wire):
    """A transport whose client c0 hands over a ledger that obeys all rules and fits nothing, once it has answered."""

    def __init__(self, clients: list[Client], lines: Callable[[list[Any]], list[Any]]) -> None:
        super().__init__(clients)
        self._lines = lines

    def ledger(self, client_id: str) -> bytes:
        data = super().ledger(client_id)
        if client_id != "c0" or not self.answers:
            return data
        head, spoilt = "0" * 64, b""
        for index, entry in enumerate(self._lines(list(Ledger.parse(data)))):
            line = encode(entry, index, head)
            head, spoilt = hashlib.sha256(line).hexdigest(), spoilt + line + b"\n"
        return spoilt


SPOILS: dict[str, Callable[[list[Any]], list[Any]]] = {
    "costs nobody can add up": lambda lines: [
        *lines,
        *[Charge(SampledGaussian(1.0, 0.5, 10**15), f"x:{i}") for i in "01"],
    ],
    "an overspent budget": lambda lines: [dataclasses.replace(lines[0], budget=Budget(1e-3, 1e-5)), *lines[1:]],
    "another pin": lambda lines: [dataclasses.replace(e, max_queries=99) if isinstance(e, Pin) else e for e in lines],
    "a round that was never played": lambda lines: [
        dataclasses.replace(e, message_id=f"{e.message_id.partition(':')[0]}:000999") if hasattr(e, "message_id") else e
        for e in lines[:4]
    ],
}


@pytest.mark.parametrize("how", sorted(SPOILS))
def test_one_client_s_odd_ledger_leaves_the_others_a_release(
    make_images: MakeImages, tmp_path: Path, case: Case, how: str
) -> None:
    release = fit(case.make(privacy=NOISY), Spoiling(members(make_images), SPOILS[how]))
    assert set(release.card["unaccounted"]) == {"c0"}
    assert not release.private
    assert release.epsilon["c0"] == math.inf > release.epsilon["c1"]
    Release.load(release.save(tmp_path / "release")).verify()


def test_a_second_run_is_charged_on_top(make_images: MakeImages, case: Case) -> None:
    clients = members(make_images, 1)
    for run in (1, 2):
        release = fit(case.make(privacy=NOISY), clients)
        release.verify()
        assert len(clients[0].ledger.events) == run * case.queries
    bill = release.card["clients"]["c0"]
    assert bill["charges"] == case.queries
    assert bill["so_far"]["epsilon"] > bill["spent"]["epsilon"]


# What depends on what


def test_private_runs_differ_and_open_runs_do_not(make_images: MakeImages, case: Case) -> None:
    private = [fit(case.make(privacy=NOISY, seed=3), members(make_images)).dataset.images for _ in range(2)]
    assert not torch.equal(*private)
    opened = []
    for junk in (0, 1):
        torch.manual_seed(junk), np.random.seed(junk)
        state = torch.get_rng_state(), np.random.get_state()[1].copy()
        opened.append(fit(case.make(privacy=None, seed=3), members(make_images)).dataset.images)
        assert torch.equal(torch.get_rng_state(), state[0])
        assert (np.random.get_state()[1] == state[1]).all()
    assert torch.equal(*opened)
    assert not torch.equal(opened[0], fit(case.make(privacy=None, seed=4), members(make_images)).dataset.images)


def test_the_order_of_clients_does_not_matter(make_images: MakeImages, case: Case) -> None:
    def opened(order: Sequence[int]) -> torch.Tensor:
        clients = [Client(f"c{i}", make_images(9 + 3 * i, seed=i)) for i in range(3)]
        return fit(case.make(privacy=None), [clients[i] for i in order]).dataset.images

    first = opened((0, 1, 2))
    for order in () if case.draws else ((2, 0, 1), (1, 0, 2)):
        assert float((opened(order) - first).abs().max()) < 1e-4
    assert float((opened((0, 1)) - first).abs().max()) > 1e-3  # it is not that the clients do not matter
    bills = []
    for step in (1, -1):
        clients = [*members(make_images, 2), Client("x", make_images(9), randomness=InsecureRandomness(0))][::step]
        release = fit(case.make(privacy=NOISY), clients)
        own = ("charges", "claim", "spent", "so_far", "messages_used")
        bills.append({name: [bill[part] for part in own] for name, bill in release.card["clients"].items()})
    assert bills[0] == bills[1]


HOLDINGS: dict[str, dict[str, Any]] = {
    "nothing": {"n": 0},
    "one example": {"n": 1},
    "one class": {"n": 9, "labels": [2] * 9},
    "more than a micro-batch": {"n": 70},
}


def test_nothing_but_the_noisy_values_depends_on_the_data(make_images: MakeImages, case: Case) -> None:
    """Sizes, enrolments, the queries' number and their very bytes: the same for all data."""
    seen = set()
    for holding in HOLDINGS.values():
        wire = Wire([Client("a", make_images(**holding)), Client("b", make_images(9))])
        release = fit(case.make(privacy=NOISY), wire)
        release.verify()
        run_id = release.card["run_id"].encode()
        assert {query.question for _, query, _ in wire.answers} == {case.question}  # no counts, no images
        assert all(query.batch is None for _, query, _ in wire.answers)
        own = [(query.data.replace(run_id, b""), len(data)) for name, query, data in wire.answers if name == "a"]
        assert len(own) == case.queries
        assert all(len(data) == size for (_, size), (_, _, data) in zip(own, wire.answers[1::2], strict=True))
        values = [Message.from_bytes(data).values for name, _, data in wire.answers if name == "a"]
        assert all(bool((value != 0).any(dim=1).all()) for value in values)  # every class carries noise
        seen.add((tuple(own), tuple(wire.enrolments), *(value.shape for value in values)))
    assert len(seen) == 1


@pytest.mark.parametrize("privacy", [NOISY, None], ids=["private", "open"])
@pytest.mark.parametrize("holding", ["nothing", "one class"])
def test_clients_with_little_take_part(
    make_images: MakeImages, tmp_path: Path, case: Case, privacy: Privacy | None, holding: str
) -> None:
    clients = [Client("a", make_images(**HOLDINGS[holding])), Client("b", make_images(9))]
    release = checked(fit(case.make(privacy=privacy), clients), tmp_path)
    bills = release.card["clients"]
    assert bills["a"]["messages_used"] == bills["b"]["messages_used"] >= case.queries
    assert bills["a"]["spent"] == bills["b"]["spent"]
    if privacy or not case.draws:
        alone = checked(fit(case.make(privacy=privacy), clients[:1]), tmp_path / "alone")
        assert not alone.card["progress"]["stopped_early"]


# Endings


@pytest.mark.parametrize("refusing", [("c1",), ("c0", "c1", "c2")], ids=["one", "all"])
def test_clients_that_refuse_leave_and_the_run_goes_on(
    make_images: MakeImages, tmp_path: Path, case: Case, refusing: tuple[str, ...]
) -> None:
    clients, records = members(make_images), list[RoundRecord]()
    last = case.queries - 1
    wire = Wire(clients, refusing, at=last)
    if case.queries == 1 and len(refusing) == len(clients):  # the one query there is: nothing to release
        with pytest.raises(QueryRefusedError, match="no client answers"):
            fit(case.make(privacy=NOISY), wire)
        assert all(not client.ledger.events for client in clients)
        return
    release = checked(fit(case.make(privacy=NOISY), wire, on_round_end=records.append), tmp_path)
    stayed = tuple(client.client_id for client in clients if client.client_id not in refusing)
    for client in clients:
        expected = case.queries if client.client_id in stayed else last
        assert release.card["clients"][client.client_id]["charges"] == len(client.ledger.events) == expected
    assert records[-1].answered == stayed
    assert math.isnan(records[-1].matching_loss) is (not stayed)
    assert not (stayed and release.card["progress"]["stopped_early"])


def raising(error: type[BaseException], real: Callable[..., Any], at: int) -> Callable[..., Any]:
    """The function, which raises once it has done its work for the at-th time."""
    counter = itertools.count(1)

    def stop(*arguments: Any, **named: Any) -> Any:
        result = real(*arguments, **named)
        if next(counter) == at:
            raise error
        return result

    return stop


@pytest.mark.parametrize("step", [1, -1], ids=["first step", "last step"])
def test_ctrl_c_while_s_is_matched_gives_a_release_with_the_true_bill(
    make_images: MakeImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case, step: int
) -> None:
    clients, method = members(make_images), case.make(privacy=NOISY)
    steps = case.queries * method.matching_steps  # the messages of the last round are in and paid, S is not done
    at = (steps - method.matching_steps if step == 1 else steps - 1) + 1
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", raising(KeyboardInterrupt, torch.optim.Adam.step, at))
        release = checked(fit(method, clients), tmp_path)
    progress = release.card["progress"]
    assert progress["stopped_early"]
    assert progress["matching_steps"] == at - 1
    for client in clients:
        assert release.card["clients"][client.client_id]["charges"] == len(client.ledger.events) == case.queries
        assert release.epsilon[client.client_id] == best_epsilon([NOISY.plan(case.queries).schedule], 1e-5)


def test_ctrl_c_in_the_callback_gives_a_release(make_images: MakeImages, tmp_path: Path, case: Case) -> None:
    def stop(record: RoundRecord) -> None:
        if record.server_round == record.rounds:
            raise KeyboardInterrupt

    release = checked(fit(case.make(privacy=NOISY), members(make_images), on_round_end=stop), tmp_path)
    assert not release.card["progress"]["stopped_early"]


def test_ctrl_c_while_a_client_answers(
    make_images: MakeImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    """The second client is charged, its message never was: it counts on the bill, and is not used."""
    clients, calls, real = members(make_images), itertools.count(), Client._private

    def stop(self: Client, *arguments: Any) -> Any:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Client, "_private", stop)
        method = case.make(privacy=NOISY)
        release = checked(fit(method, clients), tmp_path)
    assert [release.card["clients"][c.client_id]["charges"] for c in clients] == [1, 1, 0]
    assert [release.card["clients"][c.client_id]["messages_used"] for c in clients] == [1, 0, 0]
    assert release.card["progress"]["stopped_early"]
    # Where there is one message only, what came of it is matched; a round of many that was cut short is not.
    assert release.card["progress"]["matching_steps"] == (method.matching_steps if case.queries == 1 else 0)


@pytest.mark.parametrize("privacy", [NOISY, None], ids=["private", "open"])
def test_the_callback_hears_public_values(make_images: MakeImages, case: Case, privacy: Privacy | None) -> None:
    records: list[RoundRecord] = []
    fit(case.make(privacy=privacy), members(make_images), on_round_end=records.append)
    assert [record.server_round for record in records] == list(range(1, case.queries + 1))
    for record in records:
        assert record.rounds == case.queries
        assert record.answered == ("c0", "c1", "c2")
        assert math.isfinite(record.matching_loss)
        assert record.matching_loss > 0
        assert set(record.epsilon) == {"c0", "c1", "c2"}


def test_progress_does_not_touch_the_result(
    make_images: MakeImages, capsys: pytest.CaptureFixture[str], case: Case
) -> None:
    method = case.make(privacy=None)
    plain = fit(method, members(make_images)).dataset.images
    assert torch.equal(plain, fit(method, members(make_images), progress=True).dataset.images)
    said = capsys.readouterr().err
    assert "matching loss" in said
    assert "NOT PRIVATE" in said
    fit(case.make(privacy=NOISY), members(make_images), progress=True)
    assert "epsilon so far" in capsys.readouterr().err


# Killed and resumed


class Killed(BaseException):
    """Stands for the death of the process: nothing in the library catches it."""


class Mortal(PerClient):
    """Dies at the n-th query, before the client sees it or after it answered."""

    def __init__(self, clients: Sequence[Client], at: int, after: bool) -> None:
        super().__init__(clients)
        self._left, self._after = at, after

    def ask(self, client_id: str, query: bytes) -> bytes:
        self._left -= 1
        if self._left == 0 and not self._after:
            raise Killed
        data = super().ask(client_id, query)
        if self._left == 0:
            raise Killed
        return data


Reopen = Callable[[str], list[Client]]


@pytest.fixture
def reopen(make_images: MakeImages, tmp_path: Path) -> Iterator[Reopen]:
    """reopen("x"): two clients as a new process finds them, with the ledgers in tmp_path/x."""
    held: list[Ledger] = []

    def make(folder: str) -> list[Client]:
        for old in held:
            old.close()
        (tmp_path / folder).mkdir(exist_ok=True)
        held[:] = [Ledger(tmp_path / folder / f"c{i}.jsonl") for i in range(2)]
        return [
            Client(f"c{i}", make_images(9, seed=i), ledger, allow_without_privacy=True) for i, ledger in enumerate(held)
        ]

    yield make
    for ledger in held:
        ledger.close()


@pytest.mark.filterwarnings("ignore::private_distdd.errors.NotPrivateWarning")
@pytest.mark.parametrize("privacy", [NOISY, None], ids=["private", "open"])
def test_a_resumed_run_is_the_run_and_is_paid_for_once(
    make_images: MakeImages,
    tmp_path: Path,
    tiny_info: DatasetInfo,
    monkeypatch: pytest.MonkeyPatch,
    reopen: Reopen,
    case: Case,
    privacy: Privacy | None,
) -> None:
    method = case.make(privacy=privacy)
    whole = Wire(members(make_images, 2, allow_without_privacy=True))
    unbroken = fit(method, whole)
    asked = len(whole.answers)
    for place, after in ((1, False), (asked, False), (asked, True), (None, True)):
        own = f"{place}-{after}"
        wire = Mortal(reopen(own), place or 0, after)
        folder = tmp_path / f"checkpoint-{own}"
        with monkeypatch.context() as patch:
            if place is None:  # while the last messages are matched
                last = (case.queries - 1) * method.matching_steps + 1
                patch.setattr(torch.optim.Adam, "step", raising(Killed, torch.optim.Adam.step, last))
            with pytest.raises(Killed):
                method.fit(wire, info=tiny_info, checkpoint=folder)
        release = method.fit(reopen(own), info=tiny_info, checkpoint=folder, resume=True)
        release.verify()
        assert not release.card["progress"]["stopped_early"]
        paid = {name: len(charges(data)) for name, data in release.ledgers.items()}
        assert release.card["progress"] == unbroken.card["progress"]
        if privacy:
            assert paid == {"c0": case.queries, "c1": case.queries}
            assert release.epsilon == unbroken.epsilon
        else:
            assert torch.equal(release.dataset.images, unbroken.dataset.images)
        again = method.fit(reopen(own), info=tiny_info, checkpoint=folder, resume=True)
        assert {name: len(charges(data)) for name, data in again.ledgers.items()} == paid
        assert torch.equal(again.dataset.images, release.dataset.images)


def test_damaged_and_foreign_checkpoints_are_refused_for_nothing(
    make_images: MakeImages, tmp_path: Path, tiny_info: DatasetInfo, reopen: Reopen, case: Case
) -> None:
    folder, method = tmp_path / "checkpoint", case.make(privacy=NOISY)
    fit(method, reopen("x"), checkpoint=folder)

    def refused(match: str, own: Any = method, clients: Sequence[Client] | None = None, resume: bool = True) -> None:
        clients = reopen("x") if clients is None else clients
        before = [client.ledger.to_bytes() for client in clients]
        with pytest.raises(CheckpointError, match=match):
            own.fit(clients, checkpoint=folder, resume=resume)
        assert [client.ledger.to_bytes() for client in clients] == before

    refused("holds the checkpoint of a run", resume=False)
    refused("seed: 0 there, 1 here", case.make(privacy=NOISY, seed=1))
    refused("ipc: 1 there, 2 here", case.make(privacy=NOISY, ipc=2))
    refused("privacy", case.make(privacy=Privacy(noise_multiplier=9.0)))
    other = next(make for make in CASES.values() if make is not case).make(privacy=NOISY)
    refused("method", other)
    refused("has 0 charges", clients=members(make_images, 2))
    data = (folder / STATE).read_bytes()
    for damaged in (data[:-1], data[:-9] + bytes([data[-9] ^ 1]) + data[-8:], b""):
        (folder / STATE).write_bytes(damaged)
        refused("damaged")
    (folder / STATE).unlink()
    refused("no checkpoint")
    with pytest.raises(ConfigurationError, match="without a checkpoint"):
        method.fit(reopen("x"), resume=True)


# Bad input


def test_bad_knobs_are_refused_with_value_and_range(case: Case) -> None:
    bad: list[tuple[str, Any]] = [
        *((name, value) for name in case.counts for value in (0, -1, 1.5, True, "1")),
        *((name, value) for name in case.numbers for value in (0, -1, math.nan, math.inf, "1", None, True)),
        *(("seed", value) for value in (-1, 0.5, None, True)),
        ("aggregator", "krummest"),
        ("privacy", 8.0),
        ("privacy", {"target_epsilon": 8}),
    ]
    for name, value in bad:
        with pytest.raises(ConfigurationError) as caught:
            case.make(**({"privacy": None} | {name: value}))
        assert f"{name} = {value!r}" in str(caught.value)
        assert caught.value.allowed
        assert caught.value.remedy


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"aggregator": "trimmed_mean"}, "trimmed_mean"),
        ({"aggregator": "trimmed_mean(share=0.5)"}, "share = 0.5"),
        ({"device": "toaster"}, "device = 'toaster'"),
        ({"privacy": Privacy(target_epsilon=1e-9, delta=1e-12)}, "2\\^20"),
        ({"model": "no such", "model_args": {}}, "no such"),
        ({"model": "mlp", "model_args": {"width": 0}}, "width = 0"),
        ({"model": "mlp", "model_args": {"colour": 1}}, "colour"),
        ({"model": "lenet", "model_args": {}}, "12 x 12"),
    ],
)
def test_what_only_the_clients_show_is_found_before_they_are_asked(
    make_images: MakeImages, case: Case, arguments: dict[str, Any], text: str
) -> None:
    clients = members(make_images)
    with pytest.raises((ConfigurationError, ModelError), match=text):
        case.make(**({"privacy": NOISY} | arguments)).fit(clients)
    assert all(len(client.ledger) == 1 for client in clients)  # nothing spent, nothing reserved


def test_what_is_public_comes_from_the_clients_or_the_caller(
    make_images: MakeImages, tiny_info: DatasetInfo, case: Case
) -> None:
    data = make_images(9)
    bare = torch.utils.data.TensorDataset(data.images, data.labels)
    method = case.make(privacy=NOISY)
    fit(method, [Client("a", bare), Client("b", bare)], info=tiny_info).verify()
    with pytest.raises(ConfigurationError, match="info"):
        method.fit([Client("a", bare)])
    with pytest.raises(ConfigurationError, match="clients"):
        method.fit([], info=tiny_info)
    twin = Client("a", data)
    with pytest.raises(ConfigurationError, match="clients"):
        method.fit([twin, twin])
