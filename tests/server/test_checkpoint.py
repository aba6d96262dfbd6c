"""Checkpoints: whole or the one before, of this run or refused; and a resumed run is the run, paid for once."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from wiring import PerClient

from private_distdd.cli import main
from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.encoding import to_json
from private_distdd.engines.in_process import InProcess
from private_distdd.errors import CheckpointError, ConfigurationError, QueryRefusedError
from private_distdd.methods.collabdm import CollabDM
from private_distdd.methods.distdd import DistDD
from private_distdd.privacy.ledger import Budget, Charge, Ledger, parse
from private_distdd.privacy.plan import Privacy
from private_distdd.release.release import Release
from private_distdd.server import checkpoint as checkpoint_module
from private_distdd.server.checkpoint import STATE, CheckpointFolder
from private_distdd.server.state import Checkpoint
from private_distdd.site.client import Client
from private_distdd.storage import pack, unpack
from private_distdd.wire.query import Query
from private_distdd.wire.refusal import Refusal
from private_distdd.wire.run import Run

pytestmark = pytest.mark.filterwarnings("ignore::private_distdd.errors.NotPrivateWarning")

NAMES = ("a", "b", "c")
PLAIN = DistDD(ipc=2, rounds=4, model="mlp", model_args={"width": 8, "depth": 1}, matching_steps=2)
PRIVATE = dataclasses.replace(PLAIN, privacy=Privacy(noise_multiplier=2.0, sample_rate=0.5))
WITH_MEMORY: dict[str, Any] = {"memory": 2, "network_steps": 2, "reinit_every": 2}
MakeImages = Callable[..., ImageDataset]
Federation = Callable[..., list[Client]]


class Killed(BaseException):
    """Stands for the death of the process: nothing in the library catches it."""


class Mortal(PerClient):
    """Dies at the n-th query, before the client sees it or after it answered; notes what was asked and sent."""

    def __init__(self, clients: Sequence[Client], at: int | None = None, *, answered: bool = False) -> None:
        super().__init__(clients)
        self.queries: list[tuple[str, bytes]] = []
        self.messages: list[bytes] = []
        self._at, self._answered = at, answered

    def ask(self, client_id: str, query: bytes) -> bytes:
        self.queries.append((client_id, query))
        last = len(self.queries) == self._at
        if last and not self._answered:
            raise Killed
        data = super().ask(client_id, query)
        self.messages.append(data)
        if last:
            raise Killed
        return data


@pytest.fixture
def federation(make_images: MakeImages, tmp_path: Path) -> Iterator[Federation]:
    """federation(folder="x"): the clients as a new process finds them, with the ledgers in tmp_path/x."""
    opened: list[Ledger] = []

    def make(folder: str = "x", **ledger: Any) -> list[Client]:
        for old in opened:
            old.close()
        (tmp_path / folder).mkdir(exist_ok=True)
        own = [Ledger(tmp_path / folder / f"{name}.jsonl", **ledger) for name in NAMES]
        opened.extend(own)
        return [
            Client(name, make_images(12, seed), own[seed], allow_without_privacy=True)
            for seed, name in enumerate(NAMES)
        ]

    yield make
    for ledger in opened:
        ledger.close()


def ledgers(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.jsonl"))}


def fit(method: DistDD, transport: InProcess, info: DatasetInfo, folder: Path) -> Release:
    return method.fit(transport, info=info, checkpoint=folder, resume=(folder / STATE).exists())


# The folder


@pytest.fixture
def run(tiny_info: DatasetInfo) -> Run:
    return Run("run-1", tiny_info, PRIVATE.privacy.plan(4) if PRIVATE.privacy else None)


def at_round(run: Run, t: int) -> Checkpoint:
    memory = {i: {"target": torch.full((2, 3), float(i))} for i in range(max(0, t - 2), t)}
    state = {"images": torch.full((4,), float(t)), "step": torch.tensor(float(t))}
    return Checkpoint(run, {"rounds": t}, state, memory)


def assert_at(found: Checkpoint, run: Run, t: int) -> None:
    expected = at_round(run, t)
    assert found.run == run
    assert found.progress == expected.progress
    assert found.memory.keys() == expected.memory.keys()
    for ours, theirs in ((found.state, expected.state), *((found.memory[i], expected.memory[i]) for i in found.memory)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_is_written_is_read_and_rounds_are_written_once(run: Run, tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "new" / "ck", {"method": "m"})
    folder.start(Checkpoint(run))
    (tmp_path / "new" / "ck" / "notes.txt").write_text("mine")
    assert folder.read().progress == {}
    kept: dict[str, int] = {}
    for t in range(5):
        folder.write(at_round(run, t))
        if t == 3:
            folder = CheckpointFolder(tmp_path / "new" / "ck", {"method": "m"})
        assert_at(folder.read(), run, t)
        files = {path.name: path.stat().st_ino for path in (tmp_path / "new" / "ck").glob("memory-*")}
        assert len(files) == min(t, 2)
        assert all(files[name] == kept[name] for name in files.keys() & kept.keys())
        kept = files
    assert {path.name for path in (tmp_path / "new" / "ck").iterdir()} == {STATE, "notes.txt", *kept}
    unpack((tmp_path / "new" / "ck" / STATE).read_bytes())  # safetensors and JSON, nothing else


def test_any_changed_byte_is_noticed(run: Run, tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, {"method": "m"})
    folder.start(at_round(run, 2))
    for path in sorted(tmp_path.iterdir()):
        data = path.read_bytes()
        for place in range(len(data)):
            path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            with pytest.raises(CheckpointError):
                folder.read()
        for part in (b"", data[:7], data[: len(data) // 2], data + b"\0"):
            path.write_bytes(part)
            with pytest.raises(CheckpointError, match="damaged"):
                folder.read()
        path.write_bytes(data)
    (tmp_path / "memory-000001.safetensors").unlink()
    with pytest.raises(CheckpointError, match="missing"):
        folder.read()


@pytest.mark.parametrize("name", ["replace", "fsync"])
def test_a_failed_write_leaves_the_one_before(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    real = getattr(os, name)
    calls = 0
    for fatal in range(1, 4):
        folder = CheckpointFolder(tmp_path / str(fatal), {})
        folder.start(at_round(run, 1))
        calls = 0

        def failing(*arguments: Any, fatal: int = fatal) -> Any:
            nonlocal calls
            calls += 1
            if calls == fatal:
                raise OSError(28, "No space left on device")
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(os, name, failing)
            try:
                folder.write(at_round(run, 3))
            except CheckpointError as error:
                assert "No space left" in str(error)  # noqa: PT017 - the last write may not be reached
        found = CheckpointFolder(tmp_path / str(fatal), {}).read()
        assert_at(found, run, 1 if found.progress["rounds"] == 1 else 3)
    assert calls


def test_other_identities_are_refused_and_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CheckpointFolder(tmp_path, {"rounds": 3, "rate": 0.1}).start(Checkpoint(run))
    with pytest.raises(CheckpointError, match=r"rounds: 3 there, 4 here\)"):
        CheckpointFolder(tmp_path, {"rounds": 4, "rate": 0.1}).read()
    with pytest.raises(CheckpointError, match=r"rate: 0\.1 there, None here"):
        CheckpointFolder(tmp_path, {"rounds": 3}).read()
    monkeypatch.setattr(checkpoint_module, "version", lambda name: "0.0")
    with pytest.raises(CheckpointError, match=r"version of torch: .* there, '0\.0' here"):
        CheckpointFolder(tmp_path, {"rounds": 3, "rate": 0.1}).read()


def test_a_folder_with_a_run_and_one_without(run: Run, tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, {})
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        folder.read()
    folder.start(Checkpoint(run))
    before = (tmp_path / STATE).read_bytes()
    with pytest.raises(CheckpointError, match="nothing is overwritten"):
        CheckpointFolder(tmp_path, {}).start(Checkpoint(run))
    assert (tmp_path / STATE).read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        CheckpointFolder(tmp_path / "file", {}).start(Checkpoint(run))
    with pytest.raises(CheckpointError, match="cannot be read"):
        CheckpointFolder(tmp_path / "file", {}).read()


# A run that goes on


@pytest.mark.parametrize(
    "changes",
    [
        {},
        WITH_MEMORY,
        WITH_MEMORY | {"initialization": "real", "batch_per_class": 3},
        {"matching_optimizer": "sgd", "participation": 0.7, "reinit_every": None, "network_steps": 1},
        {"granularity": "joint", "aggregator": "median", "network_update": "aggregated", "network_steps": 1},
    ],
)
def test_killed_before_any_query_the_run_ends_with_the_same_bits_and_bill(
    federation: Federation, tiny_info: DatasetInfo, tmp_path: Path, changes: dict[str, Any]
) -> None:
    method = dataclasses.replace(PLAIN, rounds=3, **changes)
    whole = Mortal(federation("whole"))
    expected = fit(method, whole, tiny_info, tmp_path / "whole" / "run")
    for at in range(1, len(whole.queries) + 1):
        name = f"{at}"
        first = Mortal(federation(name), at)
        with pytest.raises(Killed):
            fit(method, first, tiny_info, tmp_path / name / "run")
        second = Mortal(federation(name))
        release = fit(method, second, tiny_info, tmp_path / name / "run")
        assert torch.equal(release.dataset.images, expected.dataset.images)
        assert not release.failures()
        for client_id, bill in release.card["clients"].items():
            assert bill["charges"] == expected.card["clients"][client_id]["charges"]
            assert bill["messages_used"] == expected.card["clients"][client_id]["messages_used"]
        assert release.card["progress"] == expected.card["progress"]
        repeated = set(first.queries) & set(second.queries)
        rounds = {(client_id, Query.from_bytes(data).server_round) for client_id, data in repeated}
        assert len(rounds) == len(first.queries) + len(second.queries) - len(whole.queries)  # same round, same bytes


@pytest.mark.parametrize("answered", [False, True], ids=["before the answer", "after the answer"])
def test_with_privacy_killed_at_every_query_in_turn_every_round_is_paid_once(
    federation: Federation, tiny_info: DatasetInfo, tmp_path: Path, answered: bool
) -> None:
    method = dataclasses.replace(PRIVATE, **WITH_MEMORY)
    sent: list[bytes] = []
    lives = 0
    while True:
        lives += 1
        # Dying at the fourth query (before the answer: the fifth) lets each life end one round of three clients.
        transport = Mortal(federation(), 4 + (not answered), answered=answered)
        try:
            release = fit(method, transport, tiny_info, tmp_path / "run")
        except Killed:
            sent += transport.messages
            continue
        sent += transport.messages
        break
    assert lives == 4
    release.verify()
    assert len(sent) > len(set(sent)) == 4 * 3  # what was sent again was the same bytes
    for bill in release.card["clients"].values():
        assert bill["charges"] == bill["messages_used"] == 4


def test_a_finished_run_gives_its_release_again(federation: Federation, tiny_info: DatasetInfo, tmp_path: Path) -> None:
    first = fit(PRIVATE, Mortal(federation()), tiny_info, tmp_path / "run")
    transport = Mortal(federation())
    again = fit(PRIVATE, transport, tiny_info, tmp_path / "run")
    assert not transport.queries
    assert torch.equal(again.dataset.images, first.dataset.images)
    assert again.card == first.card
    assert again.ledgers == first.ledgers


def test_after_an_exception_the_same_clients_go_on_in_one_process(
    make_images: MakeImages, tiny_info: DatasetInfo, tmp_path: Path
) -> None:
    clients = [Client(name, make_images(12, seed)) for seed, name in enumerate(NAMES)]  # ledgers in memory

    def stop(record: Any) -> None:
        if record.server_round == 2:
            raise RuntimeError("looked at it long enough")

    with pytest.raises(RuntimeError, match="long enough"):
        PRIVATE.fit(clients, checkpoint=tmp_path, on_round_end=stop)
    release = PRIVATE.fit(clients, checkpoint=tmp_path, resume=True)
    release.verify()
    assert {bill["charges"] for bill in release.card["clients"].values()} == {4}


def test_ctrl_c_gives_a_release_and_the_run_can_still_go_on(
    federation: Federation, tiny_info: DatasetInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fit(PLAIN, Mortal(federation("whole")), tiny_info, tmp_path / "whole" / "run")
    real, asked = Client.answer, 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 3 + 3 + 2:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Client, "answer", interrupted)
        early = fit(PLAIN, Mortal(federation()), tiny_info, tmp_path / "run")
    assert not early.failures()
    assert early.card["progress"]["stopped_early"]
    release = fit(PLAIN, Mortal(federation()), tiny_info, tmp_path / "run")
    assert torch.equal(release.dataset.images, expected.dataset.images)
    assert not release.failures()


# Clients that leave


class Refusing(Mortal):
    """Clients that answer "refused" from some query of theirs on, or do not enrol."""

    def __init__(self, clients: Sequence[Client], refusing: dict[str, int], at: int | None = None) -> None:
        super().__init__(clients, at)
        self._left = refusing
        self.invited: list[str] = []

    def enroll(self, client_id: str, run: bytes) -> bytes:
        self.invited.append(client_id)
        if self._left.get(client_id) == -1:
            return Refusal("refused").to_bytes()
        return super().enroll(client_id, run)

    def ask(self, client_id: str, query: bytes) -> bytes:
        data = super().ask(client_id, query)
        if client_id in self._left:
            self._left[client_id] -= 1
            if self._left[client_id] < 0:
                return Refusal("refused").to_bytes()
        return data


def test_a_client_that_left_stays_out(federation: Federation, tiny_info: DatasetInfo, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        fit(PRIVATE, Refusing(federation(), {"b": 1}, at=7), tiny_info, tmp_path / "run")  # a b c, a b(refuses) c, a
    second = Refusing(federation(), {})
    release = fit(PRIVATE, second, tiny_info, tmp_path / "run")
    assert second.invited == ["a", "c"]
    assert "b" not in {client_id for client_id, _ in second.queries}
    assert {name: bill["messages_used"] for name, bill in release.card["clients"].items()} == {"a": 4, "b": 1, "c": 4}
    assert not release.failures()


def test_a_client_that_does_not_enrol_again_takes_nobody_with_it(
    federation: Federation, tiny_info: DatasetInfo, tmp_path: Path
) -> None:
    # Without privacy the queries depend on who is active; "a" has sealed its answer to the interrupted round.
    with pytest.raises(Killed):
        fit(PLAIN, Mortal(federation(), 3 + 3 + 2), tiny_info, tmp_path / "run")
    release = fit(PLAIN, Refusing(federation(), {"c": -1}), tiny_info, tmp_path / "run")
    used = {name: bill["messages_used"] for name, bill in release.card["clients"].items()}
    assert used == {"a": 5, "b": 5, "c": 2}
    assert not release.failures()


def test_a_run_that_nobody_is_left_of_gives_its_release_again(
    federation: Federation, tiny_info: DatasetInfo, tmp_path: Path
) -> None:
    first = fit(PRIVATE, Refusing(federation(), dict.fromkeys(NAMES, 2)), tiny_info, tmp_path / "run")
    second = Refusing(federation(), {})
    again = fit(PRIVATE, second, tiny_info, tmp_path / "run")
    assert not second.queries
    assert not second.invited
    assert again.card == first.card
    assert first.card["progress"]["rounds_done"] == 3


def test_a_budget_is_reserved_once(federation: Federation, tiny_info: DatasetInfo, tmp_path: Path) -> None:
    assert PRIVATE.privacy is not None
    plan = PRIVATE.privacy.plan(PRIVATE.rounds)
    budget = Budget(plan.epsilon * 1.01, plan.delta)  # room for one run, not for two
    for at in (1, 2, 3, 4, 5):
        with pytest.raises(Killed):
            fit(PRIVATE, Mortal(federation(budget=budget), at), tiny_info, tmp_path / "run")
    release = fit(PRIVATE, Mortal(federation(budget=budget)), tiny_info, tmp_path / "run")
    release.verify()
    with pytest.raises(QueryRefusedError, match="no client agrees"):
        PRIVATE.fit(federation(), checkpoint=tmp_path / "other")


# Refused, for nothing


def test_what_does_not_fit_is_refused_and_nothing_is_spent(
    federation: Federation, make_images: MakeImages, tiny_info: DatasetInfo, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        fit(PRIVATE, Mortal(federation(), 5), tiny_info, tmp_path / "run")
    before = ledgers(tmp_path / "x")
    for changes in (
        {"rounds": 5},
        {"seed": 1},
        {"model_args": {"width": 9, "depth": 1}},
        {"privacy": Privacy(noise_multiplier=2.1, sample_rate=0.5)},
        {"privacy": None},
    ):
        with pytest.raises(CheckpointError, match=f"another run .*{next(iter(changes))}"):
            dataclasses.replace(PRIVATE, **changes).fit(federation(), checkpoint=tmp_path / "run", resume=True)
    with pytest.raises(CheckpointError, match="clients: "):
        PRIVATE.fit(federation()[:2], checkpoint=tmp_path / "run", resume=True)
    with pytest.raises(CheckpointError, match="data: "):
        fit(PRIVATE, Mortal(federation()), dataclasses.replace(tiny_info, name="other"), tmp_path / "run")
    with pytest.raises(CheckpointError, match="nothing is overwritten"):
        PRIVATE.fit(federation(), checkpoint=tmp_path / "run")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        PRIVATE.fit(federation(), checkpoint=tmp_path / "elsewhere", resume=True)
    with pytest.raises(ConfigurationError, match="without a checkpoint"):
        PRIVATE.fit(federation(), resume=True)
    lost = [Client(name, make_images(12, seed)) for seed, name in enumerate(NAMES)]
    with pytest.raises(CheckpointError, match="ledger of client 'a' has 0 charges"):
        PRIVATE.fit(lost, checkpoint=tmp_path / "run", resume=True)
    assert all(len(client.ledger) == 1 for client in lost)
    data = (tmp_path / "run" / STATE).read_bytes()
    (tmp_path / "run" / STATE).write_bytes(data[:-1])
    with pytest.raises(CheckpointError, match="damaged"):
        PRIVATE.fit(federation(), checkpoint=tmp_path / "run", resume=True)
    assert ledgers(tmp_path / "x") == before
    (tmp_path / "run" / STATE).write_bytes(data)
    fit(PRIVATE, Mortal(federation()), tiny_info, tmp_path / "run").verify()


# Made to look whole


Edit = Callable[[dict[str, Any], dict[str, torch.Tensor]], object]  # of the header and the state's tensors
METHODS: dict[str, DistDD | CollabDM] = {
    "private": dataclasses.replace(PRIVATE, **WITH_MEMORY),
    "open": dataclasses.replace(PLAIN, matching_optimizer="sgd", participation=0.7),
    "collabdm": CollabDM(
        ipc=1, networks=2, frequencies=4, model_args={"width": 8, "depth": 1}, matching_steps=2, privacy=PRIVATE.privacy
    ),
}


def progress(**changes: Any) -> Edit:
    return lambda header, state: header["progress"].update(changes)


def counts(**changes: Any) -> Edit:
    return lambda header, state: header["progress"]["class_counts"].update(changes)


def replaced(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Edit:
    return lambda header, state: state.update({name: change(state[name])})


def run_record(**changes: Any) -> Edit:
    return lambda header, state: header.update(run=to_json(json.loads(header["run"]) | changes))


def last_nan(tensor: torch.Tensor) -> torch.Tensor:
    changed = tensor.clone()
    changed.view(-1)[-1] = math.nan
    return changed


DAMAGES: list[tuple[str, str, Edit]] = [
    # The header
    ("private", "fields", lambda header, state: header.pop("memory")),
    ("private", "fields", lambda header, state: header.update(more=1)),
    ("private", "fields", lambda header, state: header.update(identity=[])),
    ("private", "fields", lambda header, state: header.update(progress=[1])),
    ("private", "fields", lambda header, state: header.update(run=None)),
    ("private", "surrogates not allowed", lambda header, state: header.update(run="\ud800")),
    ("private", "remembers rounds", lambda header, state: header.update(memory={"one": "0" * 64})),
    ("private", "remembers rounds", lambda header, state: header.update(memory={"-1": "0" * 64})),
    ("private", "bytes are not those", lambda header, state: header["memory"].update({"1": None})),
    ("private", "plan", run_record(plan=None)),
    ("private", "plan", lambda header, state: header.update(run=header["run"].replace('"divisor":1.0', '"divisor":1'))),
    ("private", "other data", run_record(info=DatasetInfo("other", 3, (1, 8, 8)).to_json())),
    # Progress
    ("private", "'steps' is missing", lambda header, state: header["progress"].pop("steps")),
    ("private", "'more' is no field", progress(more=1)),
    ("private", "no progress", lambda header, state: header.update(progress={})),
    ("private", "rounds is 5", progress(rounds=5)),
    ("private", "rounds is -1", progress(rounds=-1)),
    ("private", "rounds is 3.0", progress(rounds=3.0)),
    ("private", "rounds is True", progress(rounds=True)),
    ("private", "steps is 8", progress(steps=8)),
    ("private", "steps is 5", progress(steps=5)),
    ("private", "started is 1", progress(started=1)),
    ("private", "started is False", progress(started=False)),
    ("private", "active is 'a'", progress(active="a")),
    ("private", "active is .*'z'", progress(active=["a", "z"])),
    ("private", "active is .*'a', 'a'", progress(active=["a", "a"])),
    ("private", "answered is .*'z'", progress(answered={"a": 3, "b": 3, "c": 3, "z": 0})),
    ("private", "answered is ", progress(answered={"a": 3, "b": 3})),
    ("private", "answered is ", progress(answered={"a": 4, "b": 3, "c": 3})),
    ("private", "answered is None", progress(answered=None)),
    ("private", "class_counts is ", progress(class_counts={"a": [1, 1, 1]})),
    ("open", "class_counts is None", progress(class_counts=None)),
    ("open", "class_counts is ", counts(a=[1, 1])),
    ("open", "class_counts is ", counts(a=[1, -1, 1])),
    ("open", "class_counts is ", counts(a=[1, 1, 1 << 62])),
    ("open", "class_counts is ", counts(z=[1, 1, 1])),
    ("collabdm", "answered is ", progress(answered={"a": 1, "b": 2, "c": 1})),
    ("collabdm", "active is ", progress(active=["b", "a"])),
    # Tensors
    ("private", "'images' is missing", lambda header, state: state.pop("images")),
    ("private", "'more' is not expected", lambda header, state: state.update(more=torch.ones(1))),
    ("private", r"images is torch.float32 \[5, 1, 8, 8\]", replaced("images", lambda t: t[:-1])),
    ("private", "images is torch.float64", replaced("images", lambda t: t.double())),
    ("private", "images holds NaN", replaced("images", last_nan)),
    ("private", "'network/1.bias' is missing", lambda header, state: state.pop("network/1.bias")),
    ("private", "network/1.weight is ", replaced("network/1.weight", lambda t: t.T.contiguous())),
    ("private", "'optimizer/exp_avg' is missing", lambda header, state: state.pop("optimizer/exp_avg")),
    ("private", "optimizer/exp_avg is ", replaced("optimizer/exp_avg", lambda t: t[0])),
    ("private", "optimizer/step is not what", replaced("optimizer/step", lambda t: t * 0 - 1)),
    ("open", "momentum_buffer is ", replaced("optimizer/momentum_buffer", lambda t: t.flatten())),
    ("collabdm", "'targets' is missing", lambda header, state: state.pop("targets")),
    ("collabdm", "targets is ", replaced("targets", lambda t: t[:, :-1].contiguous())),
    ("collabdm", "targets holds NaN", replaced("targets", last_nan)),
    ("collabdm", "start is torch.uint8", replaced("start", lambda t: t.to(torch.uint8))),
]
MEMORIES: list[tuple[str, Callable[[dict[int, dict[str, torch.Tensor]]], object]]] = [
    ("remembers 1 rounds, not 2", lambda memory: memory.pop(1)),
    ("remembers round 3, which was not played", lambda memory: memory.update({3: memory.pop(2)})),
    ("memory of round 2: tensor 'target' is missing", lambda memory: memory[2].pop("target")),
    ("memory of round 1: target holds NaN", lambda memory: memory[1].update(target=last_nan(memory[1]["target"]))),
    ("memory of round 2: target is ", lambda memory: memory[2].update(target=memory[2]["target"][:1])),
    ("memory of round 2: network/1.bias is ", lambda memory: memory[2].update({"network/1.bias": torch.ones(())})),
]


@pytest.fixture(scope="module")
def killed(
    make_images: MakeImages, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, dict[str, bytes]]]:
    """killed(name): a checkpoint of that method after its third round (CollabDM: its only one), and the ledgers."""

    @functools.cache
    def make(name: str) -> tuple[Path, dict[str, bytes]]:
        folder = tmp_path_factory.mktemp("killed")
        clients = [Client(own, make_images(12, seed)) for seed, own in enumerate(NAMES)]

        def stop(record: Any) -> None:
            if record.server_round == 3 or isinstance(METHODS[name], CollabDM):
                raise Killed

        with pytest.raises(Killed):
            METHODS[name].fit(clients, checkpoint=folder, on_round_end=stop)
        return folder, {client.client_id: client.ledger.to_bytes() for client in clients}

    return make


def refused(
    killed: Callable[[str], tuple[Path, dict[str, bytes]]],
    make_images: MakeImages,
    folder: Path,
    name: str,
    said: str,
    change: Callable[[dict[str, Any], dict[str, torch.Tensor], dict[int, dict[str, torch.Tensor]]], object],
) -> None:
    """With its hashes made anew the checkpoint is refused for what it holds, and no client hears of it."""
    source, kept = killed(name)
    header, state = unpack((source / STATE).read_bytes())
    del header["sha256"]
    memory = {int(t): unpack((source / f"memory-{int(t):06d}.safetensors").read_bytes())[1] for t in header["memory"]}
    before = dict(header["memory"])
    change(header, state, memory)
    (folder / "run").mkdir()
    for t, tensors in memory.items():
        (folder / "run" / f"memory-{t:06d}.safetensors").write_bytes(pack({}, tensors))
    if header.get("memory") == before:
        header["memory"] = {str(t): hashlib.sha256(pack({}, tensors)).hexdigest() for t, tensors in memory.items()}
    (folder / "run" / STATE).write_bytes(checkpoint_module._sealed(header, state))
    own = []
    for client_id, data in kept.items():
        (folder / f"{client_id}.jsonl").write_bytes(data)
        own.append(Ledger(folder / f"{client_id}.jsonl"))
    ends = Refusing([Client(n, make_images(12, seed), own[seed]) for seed, n in enumerate(NAMES)], {})
    try:
        with pytest.raises(CheckpointError, match=said):
            METHODS[name].fit(ends, info=ends._clients["a"].info, checkpoint=folder / "run", resume=True)
    finally:
        for ledger in own:
            ledger.close()
    assert not ends.invited
    assert not ends.queries
    assert ledgers(folder) == {f"{client_id}.jsonl": data for client_id, data in kept.items()}


@pytest.mark.parametrize(("name", "said", "edit"), DAMAGES, ids=[f"{n}: {said}" for n, said, _ in DAMAGES])
def test_a_sealed_checkpoint_that_cannot_be_gone_on_from_is_refused_for_nothing(
    killed: Any, make_images: MakeImages, tmp_path: Path, name: str, said: str, edit: Edit
) -> None:
    refused(killed, make_images, tmp_path, name, said, lambda header, state, memory: edit(header, state))


@pytest.mark.parametrize(("said", "edit"), MEMORIES, ids=[said for said, _ in MEMORIES])
def test_a_memory_that_does_not_belong_to_the_run_is_refused_for_nothing(
    killed: Any, make_images: MakeImages, tmp_path: Path, said: str, edit: Callable[[Any], object]
) -> None:
    refused(killed, make_images, tmp_path, "private", said, lambda header, state, memory: edit(memory))


def test_a_calibrated_sigma_that_differs_in_its_last_digits_is_the_same_run(
    killed: Any, make_images: MakeImages, tmp_path: Path
) -> None:
    source, _ = killed("private")
    form = METHODS["private"].form
    folder = CheckpointFolder(source, _identity(source))
    found = folder.read()
    assert found.run.plan is not None
    for factor, sound in ((1.0, True), (1 + 1e-9, True), (1.01, False)):
        plan = dataclasses.replace(found.run.plan, noise_multiplier=found.run.plan.noise_multiplier * factor)
        expected = form(dataclasses.replace(found.run, plan=plan), NAMES)
        assert (expected.fault(found) is None) == sound


def _identity(folder: Path) -> dict[str, Any]:
    identity = unpack((folder / STATE).read_bytes())[0]["identity"]
    return {name: value for name, value in identity.items() if not name.startswith("version of ")}


# The command line

QUICK = ["distill", "--rounds", "4", "--num-clients", "3", "--noise-multiplier", "2", "--set", "matching_steps=1"]
QUICK += ["--model", "mlp", "--set", 'model_args={"width":4,"depth":1}']


def test_the_command_goes_on_after_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [*QUICK, "--checkpoint", "state/run"]
    real, asked = Client.answer, 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 5:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Client, "answer", interrupted)
        assert main([*command, "--output", "early"]) == 0
    assert "state/run can go on, with --resume and another --output" in capsys.readouterr().out
    assert json.loads(Path("early/card.json").read_text())["progress"]["rounds_done"] == 2
    kept = ledgers(tmp_path / "state" / "run" / "ledgers")
    for wrong, said in (
        ([], "nothing is overwritten"),
        (["--resume", "--dirichlet", "1"], "other data"),
        (["--resume", "--seed", "1"], "other data"),
        (["--resume", "--ipc", "3"], "ipc: 10 there, 3 here"),
        (["--resume", "--checkpoint", "nowhere"], "nowhere"),
    ):
        assert main([*command, *wrong, "--output", "late"]) == 2
        assert said in capsys.readouterr().err
    assert main([*QUICK, "--resume", "--output", "late"]) == 2
    assert "--resume without --checkpoint" in capsys.readouterr().err
    assert ledgers(tmp_path / "state" / "run" / "ledgers") == kept
    assert main([*command, "--resume", "--output", "late"]) == 0
    assert "stopped early" not in capsys.readouterr().out
    assert main(["verify", "late"]) == 0
    for path in Path("state/run/ledgers").glob("*.jsonl"):
        assert Path("late/ledgers", path.name).read_bytes() == path.read_bytes()
        assert sum(isinstance(entry, Charge) for entry in parse(path.read_bytes())) == 4
    assert len(list(Path("late/ledgers").iterdir())) == 3
