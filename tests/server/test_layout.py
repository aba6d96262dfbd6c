"""Checkpoints that do not fit, and those that were made to look whole, are refused for nothing."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import (
    NAMES,
    PLAIN,
    PRIVATE,
    WITH_MEMORY,
    Federation,
    Killed,
    MakeImages,
    Mortal,
    Refusing,
    fit,
    ledgers,
)

from private_distdd.data.info import DatasetInfo
from private_distdd.encoding import to_json
from private_distdd.errors import CheckpointError, ConfigurationError
from private_distdd.methods.collabdm import CollabDM
from private_distdd.methods.distdd import DistDD
from private_distdd.privacy.ledger import Ledger
from private_distdd.privacy.plan import Privacy
from private_distdd.server import checkpoint as checkpoint_module
from private_distdd.server.checkpoint import STATE, CheckpointFolder
from private_distdd.site.client import Client
from private_distdd.storage import pack, unpack

pytestmark = pytest.mark.filterwarnings("ignore::private_distdd.errors.NotPrivateWarning")


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


Edit = Callable[[dict[str, Any], dict[str, torch.Tensor]], object]  # of the header and the state's tensors
METHODS: dict[str, DistDD | CollabDM] = {
    "private": dataclasses.replace(PRIVATE, **WITH_MEMORY),
    "open": dataclasses.replace(PLAIN, matching_optimizer="sgd", participation=0.7),
    "collabdm": CollabDM(
        ipc=1,
        networks=2,
        frequencies=4,
        model_args={"width": 8, "depth": 1},
        matching_steps=2,
        embedding_rounds=1,
        teacher_rounds=0,
        refinement_rounds=0,
        privacy=PRIVATE.privacy,
    ),
    "phases": CollabDM(
        ipc=1,
        networks=4,
        frequencies=4,
        model="mlp",
        model_args={"width": 8, "depth": 1},
        matching_steps=2,
        embedding_rounds=2,
        teacher_rounds=1,
        teacher="mlp",
        teacher_args={"width": 4, "depth": 1},
        refinement_rounds=2,
        network_epochs=1,
        privacy=PRIVATE.privacy,
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


def t8() -> torch.Tensor:
    return torch.ones(8)


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
    ("private", "'traffic' is missing", lambda header, state: header["progress"].pop("traffic")),
    *(
        ("private", "traffic is ", progress(traffic=traffic))
        for traffic in (
            None,
            {"a": [1, 1], "b": [1, 1]},
            *(
                {"a": pair, "b": [1, 1], "c": [1, 1]}
                for pair in ([1], [1, 1, 1], [1, -1], [1, 1.0], [True, 1], 2, None)
            ),
            {"a": [1, 1 << 63], "b": [1, 1], "c": [1, 1]},
        )
    ),
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
    ("private", "'optimizer/0/exp_avg' is missing", lambda header, state: state.pop("optimizer/0/exp_avg")),
    ("private", "optimizer/0/exp_avg is ", replaced("optimizer/0/exp_avg", lambda t: t[0])),
    ("private", "optimizer/0/step is not what", replaced("optimizer/0/step", lambda t: t * 0 - 1)),
    ("open", "momentum_buffer is ", replaced("optimizer/0/momentum_buffer", lambda t: t.flatten())),
    ("collabdm", "'embedding' is missing", lambda header, state: state.pop("embedding")),
    ("collabdm", "embedding is ", replaced("embedding", lambda t: t[:, :-1].contiguous())),
    ("collabdm", "embedding holds NaN", replaced("embedding", last_nan)),
    ("collabdm", "start is torch.uint8", replaced("start", lambda t: t.to(torch.uint8))),
    ("phases", "rounds is 6", progress(rounds=6)),
    ("phases", "rounds is 0", progress(rounds=0)),
    ("phases", "answered is ", progress(answered={"a": 6, "b": 5, "c": 5})),
    ("phases", "refinement is ", progress(rounds=4)),
    ("phases", "'refinement' is not expected", progress(rounds=3)),
    ("phases", "'first' is not expected", progress(rounds=2)),
    ("phases", "embedding is ", replaced("embedding", lambda t: t[:, :9].contiguous())),
    ("phases", "'refinement' is missing", lambda header, state: state.pop("refinement")),
    ("phases", "refinement holds NaN", replaced("refinement", last_nan)),
    ("phases", "'first' is missing", lambda header, state: state.pop("first")),
    ("phases", "first is ", replaced("first", lambda t: t[1:])),
    ("phases", "first holds NaN", replaced("first", last_nan)),
    ("phases", "'teacher/1.bias' is missing", lambda header, state: state.pop("teacher/1.bias")),
    ("phases", "teacher/1.weight is ", replaced("teacher/1.weight", lambda t: t.T.contiguous())),
    ("phases", "teacher/1.weight is torch.float64", replaced("teacher/1.weight", lambda t: t.double())),
    ("phases", "teacher/3.weight holds NaN", replaced("teacher/3.weight", last_nan)),
    ("phases", "'velocity/3' is missing", lambda header, state: state.pop("velocity/3")),
    ("phases", "'velocity/4' is not expected", lambda header, state: state.update({"velocity/4": torch.ones(3)})),
    ("phases", "velocity/0 is ", replaced("velocity/0", lambda t: t.flatten())),
    ("phases", "'networks/3/1.weight' is missing", lambda header, state: state.pop("networks/3/1.weight")),
    ("phases", "'networks/4/1.bias' is not expected", lambda header, state: state.update({"networks/4/1.bias": t8()})),
    ("phases", "networks/2/1.bias is ", replaced("networks/2/1.bias", lambda t: t[1:])),
    ("phases", "networks/0/3.weight holds NaN", replaced("networks/0/3.weight", last_nan)),
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
    """killed(name): a checkpoint of that method after its third round (CollabDM: its last), and the ledgers."""

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
    layout = METHODS["private"].layout
    folder = CheckpointFolder(source, _identity(source))
    found = folder.read()
    assert found.run.plan is not None
    for factor, sound in ((1.0, True), (1 + 1e-9, True), (1.01, False)):
        plan = dataclasses.replace(found.run.plan, noise_multiplier=found.run.plan.noise_multiplier * factor)
        expected = layout(dataclasses.replace(found.run, plan=plan), NAMES)
        assert (expected.fault(found) is None) == sound


def _identity(folder: Path) -> dict[str, Any]:
    identity = unpack((folder / STATE).read_bytes())[0]["identity"]
    return {name: value for name, value in identity.items() if not name.startswith("version of ")}
