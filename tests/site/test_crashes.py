"""A client that dies at any moment, and one whose randomness nobody vouches for."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path
from typing import Any

import pytest
from answers import PLAN, MakeImages, charges, query

from private_distdd.data.dataset import ImageDataset
from private_distdd.errors import (
    BudgetExceededError,
    ComputationError,
    ConfigurationError,
    PrivateDistDDError,
    QueryRefusedError,
)
from private_distdd.privacy.events import Composition, NotPrivate
from private_distdd.privacy.ledger import Budget, Ledger
from private_distdd.privacy.mechanism import SampledGaussianMechanism
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.privacy.randomness import InsecureRandomness, Stream, SystemRandomness
from private_distdd.site import outbox as outbox_module
from private_distdd.site.client import Client
from private_distdd.site.outbox import Outbox
from private_distdd.wire.message import Message
from private_distdd.wire.run import Run


def test_insecure_randomness_is_charged_as_not_private(make_images: MakeImages, run: Run) -> None:
    twins = [Client("clinic", make_images(6), randomness=InsecureRandomness(1)) for _ in range(2)]
    messages = []
    for own in twins:
        own.enroll(run)
        messages.append(own.answer(query(run)).data)
        assert charges(own.ledger) == [NotPrivate()]
        assert own.ledger.epsilon(1e-5) == math.inf
    assert messages[0] == messages[1]
    careful = Client("clinic", make_images(6), Ledger(None, Budget(8, 1e-5)), randomness=InsecureRandomness(1))
    with pytest.raises(BudgetExceededError):
        careful.enroll(run)


class Crash(BaseException):
    """The process dies here."""


def crashing(patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    def die(*_: Any, **__: Any) -> Any:
        raise Crash

    patch.setattr(owner, name, die)


def reopened(path: Path, data: ImageDataset, run: Run) -> Client:
    own = Client("clinic", data, Ledger(path))
    own.enroll(run)
    return own


@pytest.mark.parametrize(
    ("owner", "name"),
    [(SampledGaussianMechanism, "begin"), (Outbox, "put"), (Ledger, "seal")],
    ids=["after the charge", "before the outbox", "between outbox and seal"],
)
def test_a_crash_uses_its_charge_up_and_another_try_is_charged(
    make_images: MakeImages, run: Run, tmp_path: Path, owner: Any, name: str
) -> None:
    path, data = tmp_path / "clinic.jsonl", make_images(12)
    own = reopened(path, data, run)
    with pytest.MonkeyPatch.context() as patch:
        crashing(patch, owner, name)
        with pytest.raises(Crash):
            own.answer(query(run))
    own.ledger.close()
    own = reopened(path, data, run)
    assert own.ledger.status("run-1:000000") == "charged"
    message = own.answer(query(run))
    assert charges(own.ledger) == [PLAN.event] * 2
    own.ledger.close()
    own = reopened(path, data, run)
    assert own.answer(query(run)).data == message.data  # the reply was lost, the bytes were not
    assert charges(own.ledger) == [PLAN.event] * 2
    own.ledger.close()


@pytest.mark.parametrize("damage", ["gone", "other bytes", "empty"])
def test_a_lost_outbox_costs_a_new_charge(make_images: MakeImages, run: Run, tmp_path: Path, damage: str) -> None:
    path, data = tmp_path / "clinic.jsonl", make_images(12)
    own = reopened(path, data, run)
    first = own.answer(query(run))
    own.ledger.close()
    (outbox,) = tmp_path.glob("*.outbox")
    if damage == "gone":
        outbox.unlink()
    else:
        outbox.write_bytes(b"" if damage == "empty" else b"{}")
    own = reopened(path, data, run)
    second = own.answer(query(run))
    assert second.data != first.data
    assert charges(own.ledger) == [PLAN.event] * 2
    assert own.answer(query(run)).data == second.data
    own.ledger.close()


def test_a_full_disk_keeps_the_message_in(
    make_images: MakeImages, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = reopened(tmp_path / "clinic.jsonl", make_images(12), run)
    with monkeypatch.context() as patch:

        def full(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(outbox_module, "write_file", full)
        with pytest.raises(ComputationError, match="disk") as caught:
            own.answer(query(run))
        assert "space" in str(caught.value.__cause__)
    assert own.ledger.status("run-1:000000") == "charged"
    own.answer(query(run))
    assert charges(own.ledger) == [PLAN.event] * 2
    own.ledger.close()


def test_the_outbox_file_is_a_message_and_nothing_else(make_images: MakeImages, run: Run, tmp_path: Path) -> None:
    own = reopened(tmp_path / "clinic.jsonl", make_images(12), run)
    message = own.answer(query(run))
    (outbox,) = tmp_path.glob("*.outbox")
    assert {path.suffix for path in tmp_path.iterdir()} == {".jsonl", ".lock", ".outbox"}
    assert Message.from_bytes(outbox.read_bytes()).data == message.data
    assert outbox.stat().st_mode & 0o777 == 0o600
    assert b"image" not in (tmp_path / "clinic.jsonl").read_bytes()
    own.ledger.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork here")
def test_a_forked_child_cannot_answer_with_the_same_noise(make_images: MakeImages, run: Run, tmp_path: Path) -> None:
    own = Client("clinic", make_images(0))
    own.enroll(run)
    read, write = os.pipe()
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            reply = own.answer(query(run)).values.numpy().tobytes()[:32]
        except PrivateDistDDError:
            reply = b"refused"
        os.write(write, reply)
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(read, 32)
    assert theirs
    assert theirs != own.answer(query(run)).values.numpy().tobytes()[:32]


def test_a_private_charge_left_by_a_crash_pays_for_nothing_else(
    make_images: MakeImages, run: Run, tmp_path: Path
) -> None:
    """After the restart the server offers the same run, but without privacy."""
    path, data = tmp_path / "clinic.jsonl", make_images(12)
    own = reopened(path, data, run)
    with pytest.MonkeyPatch.context() as patch:
        crashing(patch, SampledGaussianMechanism, "begin")
        with pytest.raises(Crash):
            own.answer(query(run))
    own.ledger.close()
    own = Client("clinic", data, Ledger(path), allow_without_privacy=True)
    opened = Run(run.run_id, run.info, None)
    with contextlib.suppress(QueryRefusedError):
        own.enroll(opened)
    with pytest.raises(PrivateDistDDError):
        own.answer(query(opened))
    assert charges(own.ledger) == [PLAN.event]
    own.ledger.close()
    own = reopened(path, data, run)  # the run that was agreed to goes on
    own.answer(query(run))
    assert charges(own.ledger) == [PLAN.event] * 2
    own.ledger.close()


def test_another_client_s_ledger_is_refused(make_images: Any) -> None:
    with pytest.raises(ConfigurationError, match="the ledger of client 'b' for client 'a'"):
        Client("a", make_images(3), Ledger(None, client_id="b"))


def test_randomness_that_only_says_it_is_secure_is_charged_as_not_private(make_images: Any, tiny_info: Any) -> None:
    class Pretender(SystemRandomness):
        def stream(self) -> Stream:
            return Stream(bytes(32))

    client = Client("a", make_images(3), randomness=Pretender())
    client.enroll(Run("r", tiny_info, PrivacyPlan(1.0, 1.0, 1.0, 1.0, 1, 1e-5)))
    assert client.ledger.reserved() == (Composition((NotPrivate(),)),)
