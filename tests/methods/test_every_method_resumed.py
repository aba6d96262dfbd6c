"""Every method: killed and resumed, a run is paid once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conformance import CASES, NOISY, Case, MakeImages, Wire, charges, fit, made, members, raising, steps_of
from wiring import PerClient

from private_distdd.data.info import DatasetInfo
from private_distdd.errors import CheckpointError, ConfigurationError
from private_distdd.privacy.ledger import Ledger
from private_distdd.privacy.plan import Privacy
from private_distdd.server.checkpoint import STATE
from private_distdd.site.client import Client


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
    begins = [(place, False) for place in range(1, asked + 1, 2)]  # of rounds: what the one before left is kept
    matched = [(None, True)] if case.steps(method) else []
    for place, after in (*begins, (asked, False), (asked, True), *matched):
        own = f"{place}-{after}"
        wire = Mortal(reopen(own), place or 0, after)
        folder = tmp_path / f"checkpoint-{own}"
        with monkeypatch.context() as patch:
            if place is None:  # while the last messages are matched
                last = case.steps(method) - steps_of(method) + 1
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
            assert torch.equal(made(release), made(unbroken))
        again = method.fit(reopen(own), info=tiny_info, checkpoint=folder, resume=True)
        assert {name: len(charges(data)) for name, data in again.ledgers.items()} == paid
        assert torch.equal(made(again), made(release))


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
    knob, value = case.counts[0], getattr(method, case.counts[0])
    refused(f"{knob}: {value} there, {value + 1} here", case.make(**{"privacy": NOISY, knob: value + 1}))
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
