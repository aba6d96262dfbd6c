"""DistDD: Ctrl-C at any moment, clients that leave, nobody left."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupts import interrupted
from small_distdd import NOISY, MakeImages, Small, charged, members, open_fit
from wiring import PerClient

from private_distdd.errors import Interrupted, QueryRefusedError, ReleaseError
from private_distdd.methods.distdd_course import DistDDCourse
from private_distdd.privacy.accountants import best_epsilon
from private_distdd.privacy.events import SampledGaussian
from private_distdd.privacy.ledger import Budget, Ledger
from private_distdd.privacy.plan import Privacy
from private_distdd.release.release import Release
from private_distdd.server.record import RoundRecord
from private_distdd.server.session import Session
from private_distdd.site.client import Client
from private_distdd.wire.query import Query
from private_distdd.wire.refusal import Refusal


def interrupting(at: int) -> Callable[[RoundRecord], None]:
    def stop(record: RoundRecord) -> None:
        if record.server_round == at:
            raise KeyboardInterrupt

    return stop


def check_partial(release: Release, clients: Sequence[Client], charges: int, tmp_path: Path) -> None:
    release.verify()
    for client in clients:
        assert len(charged(release.ledgers[client.client_id])) == charges == len(client.ledger.events)
        # Stopping may have looked at messages: the claim is still that of all planned queries.
        claim = best_epsilon([SampledGaussian(5.0, 0.5, 4)], 1e-5)
        assert release.epsilon[client.client_id] == claim
        assert release.card["clients"][client.client_id]["spent"]["epsilon"] < claim
    assert release.card["progress"]["stopped_early"]
    assert bool(torch.isfinite(release.dataset.images).all())
    release.save(tmp_path / "partial")
    Release.load(tmp_path / "partial").verify()


def test_ctrl_c_between_rounds(make_images: MakeImages, tmp_path: Path) -> None:
    clients = members(make_images)
    release = interrupted(Small().fit, clients, on_round_end=interrupting(3))
    check_partial(release, clients, 3, tmp_path)
    assert release.card["progress"]["rounds_done"] == 3


def test_ctrl_c_ends_the_loop_around_it_and_keeps_the_release(make_images: MakeImages, tmp_path: Path) -> None:
    """A sweep over epsilons went on with the next one after a half-done one."""
    begun: list[float] = []

    def loop() -> None:
        for sigma in (1.0, 2.0):
            begun.append(sigma)
            method, output = Small(privacy=Privacy(noise_multiplier=sigma)), tmp_path / f"run-{sigma:g}"
            with contextlib.suppress(Exception):  # as careful scripts do
                method.fit(members(make_images), on_round_end=interrupting(1), output=output)

    with pytest.raises(KeyboardInterrupt, match=r"is in .*run-1") as stop:
        loop()
    assert begun == [1.0]
    assert isinstance(stop.value, Interrupted)
    assert stop.value.folder == tmp_path / "run-1"
    assert Release.load(tmp_path / "run-1").card == stop.value.release.card


def test_output_is_refused_before_anything_is_spent_and_written_at_the_end(
    make_images: MakeImages, tmp_path: Path
) -> None:
    clients = members(make_images)
    (tmp_path / "file").touch()
    for output in (tmp_path, tmp_path / "file" / "run"):
        with pytest.raises(ReleaseError, match=r"exists|cannot be made"):
            Small().fit(clients, output=output)
    assert all(len(client.ledger) == 1 for client in clients)
    release = Small().fit(clients, output=tmp_path / "new" / "run")
    assert Release.load(tmp_path / "new" / "run").card == release.card


def test_ctrl_c_while_the_last_ledgers_come_is_raised_after_the_release(
    make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "_ledgers", stop)
    release = interrupted(Small().fit, members(make_images))
    release.verify()
    assert not release.card["progress"]["stopped_early"]


def test_ctrl_c_in_the_last_round_is_a_whole_run(make_images: MakeImages) -> None:
    release = interrupted(Small().fit, members(make_images), on_round_end=interrupting(4))
    release.verify()
    assert not release.card["progress"]["stopped_early"]


@pytest.mark.parametrize("where", ["_match", "_update_network", "step"])
def test_ctrl_c_while_the_server_works(
    make_images: MakeImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The likeliest moment: the messages are in and paid, the round is not done."""
    clients, calls, real = members(make_images), [], getattr(DistDDCourse, where)

    def stop(self: Any, *arguments: Any) -> Any:
        calls.append(1)
        result = real(self, *arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(DistDDCourse, where, stop)
    check_partial(interrupted(Small().fit, clients), clients, 3, tmp_path)


def test_ctrl_c_while_a_client_answers(make_images: MakeImages, monkeypatch: pytest.MonkeyPatch) -> None:
    clients, calls, real = members(make_images), [], Client._private

    def stop(self: Client, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:  # round 2, the second client: charged, not sealed
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(Client, "_private", stop)
    release = interrupted(Small().fit, clients)
    release.verify()
    assert [len(charged(release.ledgers[c.client_id])) for c in clients] == [2, 2, 1]
    assert [release.card["clients"][c.client_id]["messages_used"] for c in clients] == [2, 1, 1]


class Leaving(PerClient):
    """Clients that refuse from some round on."""

    def __init__(self, clients: Sequence[Client], leave: dict[str, int]) -> None:
        super().__init__(clients)
        self._leave = leave

    def ask(self, client_id: str, query: bytes) -> bytes:
        if Query.from_bytes(query).server_round >= self._leave.get(client_id, 99):
            return Refusal("budget").to_bytes()
        return super().ask(client_id, query)


@pytest.mark.parametrize("privacy", [NOISY, None])
@pytest.mark.parametrize("aggregator", ["mean", "median"])
def test_a_client_that_refuses_leaves_and_the_run_goes_on(
    make_images: MakeImages, privacy: Privacy | None, aggregator: str
) -> None:
    clients, records = members(make_images, allow_without_privacy=privacy is None), []
    method = Small(privacy=privacy, aggregator=aggregator)
    wire = Leaving(clients, {"c1": 2, "c2": 3} if privacy else {})
    fit = method.fit if privacy else functools.partial(open_fit, method)
    release = fit(wire, info=clients[0].info, on_round_end=records.append)
    release.verify()
    expected = [3, 3, 2, 1] if privacy else [3, 3, 3, 3]
    assert [len(r.answered) for r in records] == expected
    if privacy:
        assert [release.card["clients"][f"c{i}"]["charges"] for i in range(3)] == [4, 2, 3]


def test_a_client_whose_budget_cannot_pay_stays_out(make_images: MakeImages, caplog: pytest.LogCaptureFixture) -> None:
    clients = [*members(make_images, 2), Client("poor", make_images(9), Ledger(None, Budget(0.5, 1e-5)))]
    before = clients[2].ledger.to_bytes()
    with caplog.at_level(logging.WARNING):
        release = Small().fit(clients)
    release.verify()
    assert set(release.epsilon) == {"c0", "c1"}
    assert clients[2].ledger.to_bytes() == before
    assert "client poor does not take part: budget" in caplog.text


@pytest.mark.parametrize("leave", [0, 1])
def test_nobody_left_is_a_valid_release(make_images: MakeImages, leave: int, tmp_path: Path) -> None:
    clients, records = members(make_images), []
    wire = Leaving(clients, dict.fromkeys(["c0", "c1", "c2"], leave))
    release = Small().fit(wire, info=clients[0].info, on_round_end=records.append)
    check_partial_or_empty(release, leave)
    assert math.isnan(records[-1].matching_loss)
    assert records[-1].answered == ()
    assert len(records) == leave + 1
    release.save(tmp_path / "out")
    Release.load(tmp_path / "out").verify()


def check_partial_or_empty(release: Release, rounds: int) -> None:
    release.verify()
    assert {bill["charges"] for bill in release.card["clients"].values()} == {rounds}
    assert release.card["progress"]["stopped_early"]
    assert bool(torch.isfinite(release.dataset.images).all())


def test_nobody_from_the_start_is_an_error_without_a_trace(make_images: MakeImages) -> None:
    clients = members(make_images, 2, plan=Privacy(noise_multiplier=9.0).plan(4))
    with pytest.raises(QueryRefusedError, match="no client agrees"):
        Small().fit(clients)
    assert all(len(client.ledger) == 1 for client in clients)
