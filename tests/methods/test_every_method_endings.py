"""Every method: clients that leave, and Ctrl-C at any moment."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conformance import NOISY, Case, MakeImages, Wire, checked, fit, made, members, raising, steps_of
from interrupts import interrupted

from private_distdd.errors import QueryRefusedError
from private_distdd.privacy.accountants import best_epsilon
from private_distdd.privacy.plan import Privacy
from private_distdd.server.record import RoundRecord
from private_distdd.site.client import Client


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
    used = stayed if case.matchings is None or case.queries == 1 else ("c0", "c1", "c2")
    assert records[-1].answered == used
    assert math.isnan(records[-1].matching_loss) is (not used)
    assert not (stayed and release.card["progress"]["stopped_early"])


@pytest.mark.parametrize("step", [1, -1], ids=["first step", "last step"])
def test_ctrl_c_while_s_is_matched_gives_a_release_with_the_true_bill(
    make_images: MakeImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case, step: int
) -> None:
    clients, method = members(make_images), case.make(privacy=NOISY)
    if not (steps := case.steps(method)):
        pytest.skip("it makes no S")
    # The messages of the last round are in and paid, S is not done.
    at = (steps - steps_of(method) if step == 1 else steps - 1) + 1
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", raising(KeyboardInterrupt, torch.optim.Adam.step, at))
        release = checked(interrupted(fit, method, clients), tmp_path)
    progress = release.card["progress"]
    assert progress["stopped_early"]
    assert progress["matching_steps"] == at - 1
    for client in clients:
        assert release.card["clients"][client.client_id]["charges"] == len(client.ledger.events) == case.queries
        assert release.epsilon[client.client_id] == best_epsilon([NOISY.plan(case.queries, case.events).schedule], 1e-5)


def test_ctrl_c_in_the_callback_gives_a_release(make_images: MakeImages, tmp_path: Path, case: Case) -> None:
    def stop(record: RoundRecord) -> None:
        if record.server_round == record.rounds:
            raise KeyboardInterrupt

    release = checked(interrupted(fit, case.make(privacy=NOISY), members(make_images), on_round_end=stop), tmp_path)
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
        release = checked(interrupted(fit, method, clients), tmp_path)
    assert [release.card["clients"][c.client_id]["charges"] for c in clients] == [1, 1, 0]
    assert [release.card["clients"][c.client_id]["messages_used"] for c in clients] == [1, 0, 0]
    assert release.card["progress"]["stopped_early"]
    # Where S is matched after the rounds, what came is used; a round that is matched by itself is not, if cut short.
    assert release.card["progress"]["matching_steps"] == (steps_of(method) if case.matchings else 0)


@pytest.mark.parametrize("privacy", [NOISY, None], ids=["private", "open"])
def test_the_callback_hears_public_values(make_images: MakeImages, case: Case, privacy: Privacy | None) -> None:
    records: list[RoundRecord] = []
    fit(case.make(privacy=privacy), members(make_images), on_round_end=records.append)
    assert [record.server_round for record in records] == case.heard
    for record in records:
        assert record.rounds == case.queries
        assert record.answered == ("c0", "c1", "c2")
        assert math.isfinite(record.matching_loss)
        assert record.matching_loss > 0
        assert set(record.epsilon) == set(record.traffic) == {"c0", "c1", "c2"}
        assert len(set(record.traffic.values())) == 1  # all names have one length, and all messages one size


def test_progress_does_not_touch_the_result(
    make_images: MakeImages, capsys: pytest.CaptureFixture[str], case: Case
) -> None:
    method = case.make(privacy=None)
    plain = made(fit(method, members(make_images)))
    assert torch.equal(plain, made(fit(method, members(make_images), progress=True)))
    said = capsys.readouterr().err
    assert re.search(r"loss [0-9.]+  NOT PRIVATE  [0-9.]+ (kB|MB) sent$", said, re.MULTILINE)
    assert "NOT PRIVATE" in said
    fit(case.make(privacy=NOISY), members(make_images), progress=True)
    assert "epsilon so far" in capsys.readouterr().err
