"""Every method: the bill of its messages, in the ledgers and on the card."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conformance import NOISY, Case, MakeImages, Wire, charges, checked, fit, members
from wiring import PerClient

from private_distdd.errors import ConfigurationError, NotPrivateWarning, QueryRefusedError
from private_distdd.privacy.accountants import best_epsilon
from private_distdd.privacy.events import NotPrivate, SampledGaussian
from private_distdd.privacy.ledger import Budget, Charge, Ledger, Pin, Sealed
from private_distdd.privacy.ledger.entries import encode
from private_distdd.privacy.mechanism import SampledGaussianMechanism
from private_distdd.privacy.plan import Privacy
from private_distdd.privacy.randomness import InsecureRandomness
from private_distdd.release.release import Release
from private_distdd.server.record import RoundRecord
from private_distdd.site.client import Client
from private_distdd.wire.message import Message
from private_distdd.wire.packing import FORMATS
from private_distdd.wire.query import Query


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
        event = privacy.plan(case.queries, case.events).event if privacy else NotPrivate()
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
    plan = NOISY.plan(case.queries, case.events)
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
    fsync, release = os.fsync, SampledGaussianMechanism.begin
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
    monkeypatch.setattr(SampledGaussianMechanism, "begin", spied_release)
    fit(case.make(privacy=NOISY), Watched(clients)).verify()
    assert noted == (["release"] * case.events + ["message"]) * 2 * case.queries
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


def test_packed_messages_cost_the_same_and_are_shorter(make_images: MakeImages, tmp_path: Path, case: Case) -> None:
    """The clients agree to the format, their stored messages keep their bytes, and the card names it."""
    sizes, bills = [], set()
    for form in FORMATS:
        method = case.make(privacy=NOISY, message_format=form)
        wire = Wire(members(make_images))
        release = checked(fit(method, wire), tmp_path / form)
        found = {query.server_round: len(data) for _, query, data in wire.answers}
        assert all(len(data) == found[query.server_round] for _, query, data in wire.answers)
        sizes.append(list(found.values()))
        bills.add(tuple(release.epsilon.values()))
        forged = json.loads(json.dumps(release.card))
        forged["method"]["settings"]["message_format"] = "int8" if form != "int8" else "int4"
        failures = Release(release.synthetic, forged, release.ledgers, teacher=release.teacher).failures()
        assert any("other terms" in failure for failure in failures)
    for larger, smaller in itertools.pairwise(sizes):
        assert all(a > b for a, b in zip(larger, smaller, strict=True))
    assert len(bills) == 1
    with pytest.raises(ConfigurationError, match="message_format = 'int8' without privacy"):
        case.make(privacy=None, message_format="int8")
