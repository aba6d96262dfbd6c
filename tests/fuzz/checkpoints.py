"""Checkpoints that were changed, and re-sealed."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from torch import Tensor

from private_distdd.errors import CheckpointError, DataError, PrivateDistDDError
from private_distdd.privacy.ledger import Ledger
from private_distdd.release.release import Release
from private_distdd.server.checkpoint import STATE, CheckpointFolder
from private_distdd.storage import unpack

from .harness import Finding, bounded, outcome
from .mutate import byte_edits, dump, edited, edited_bytes, edited_tensors, envelope, record_edits, tensor_edits
from .target import target
from .valid import (
    NAMES,
    RUNS,
    client,
    fresh,
)


@dataclass(frozen=True)
class Kept:
    """A run that was killed: its checkpoint, taken apart, and the clients' ledgers.

    Args:
        header, state: of the checkpoint, without its hash.
        memory: header and tensors of the other files, by their names.
        ledgers: the clients' files, by name.
    """

    header: dict[str, Any]
    state: dict[str, Tensor]
    memory: dict[str, dict[str, Tensor]]
    ledgers: dict[str, bytes]


@functools.cache
def kept(name: str) -> Kept:
    """The run of that name, killed after its third round, or before the first step of matching."""
    folder = fresh("kept")
    owners = [client(n) for n in NAMES]

    class Killed(BaseException):
        pass

    def stop(record: Any) -> None:
        if record.server_round == 3:
            raise Killed

    with bounded(), contextlib.suppress(Killed):
        RUNS[name].fit(owners, checkpoint=folder / "run", on_round_end=stop)
    header, state = unpack((folder / "run" / STATE).read_bytes())
    del header["sha256"]
    others = {path.name: unpack(path.read_bytes())[1] for path in sorted((folder / "run").glob("memory-*"))}
    assert (folder / "run" / STATE).read_bytes() == sealed(header, state)  # else no case would get past the hash
    return Kept(header, state, others, {owner.client_id: owner.ledger.to_bytes() for owner in owners})


def sealed(header: Any, tensors: Mapping[str, Tensor]) -> bytes:
    """A checkpoint whose own hash is right."""
    digest = hashlib.sha256(envelope(header, tensors)).hexdigest()
    return envelope({**header, "sha256": digest} if isinstance(header, dict) else header, tensors)


def write_checkpoint(folder: Path, header: Any, state: Mapping[str, Tensor], memory: Mapping[str, Any]) -> None:
    """The folder, with all hashes made anew."""
    folder.mkdir()
    for name, tensors in memory.items():
        data = envelope({}, tensors)
        (folder / name).write_bytes(data)
        if isinstance(header, dict) and isinstance(header.get("memory"), dict):
            t = str(int(name[len("memory-") : -len(".safetensors")]))
            if t in header["memory"]:
                header["memory"][t] = hashlib.sha256(data).hexdigest()
    (folder / STATE).write_bytes(sealed(header, state))


@functools.cache
def changed_checkpoints(*names: str) -> st.SearchStrategy[tuple[str, Any, Any, Any, Any]]:
    """(run, edits of header, of the run in it, of the state, of the newest memory), one of them most often."""

    def of(name: str) -> st.SearchStrategy[tuple[str, Any, Any, Any, Any]]:
        own = kept(name)
        newest = own.memory[max(own.memory)] if own.memory else {}
        header = {"progress": 0, "memory": own.header["memory"], "run": 0, "identity": 0}
        changes = [
            (0, record_edits({"progress": own.header["progress"]})),
            (0, record_edits({"progress": own.header["progress"]})),
            (0, record_edits(header)),
            (1, record_edits(json.loads(own.header["run"]))),
            (2, tensor_edits(sorted(own.state))),
            *([(3, tensor_edits(sorted(newest)))] if newest else []),
        ]
        none = st.just(())
        return st.one_of(
            *[st.tuples(st.just(name), *[own if i == at else none for i in range(4)]) for at, own in changes]
        )

    return st.one_of(*[of(name) for name in names])


def write_changed(folder: Path, case: tuple[str, Any, Any, Any, Any]) -> None:
    """The checkpoint that a case says."""
    name, of_header, of_run, of_state, of_memory = case
    own = kept(name)
    header = edited(own.header, of_header)
    if of_run:
        header["run"] = dump(edited(json.loads(own.header["run"]), of_run))
    memory = dict(own.memory)
    if memory and of_memory:
        memory[max(memory)] = edited_tensors(memory[max(memory)], of_memory)
    write_checkpoint(folder, header, edited_tensors(own.state, of_state), memory)


def _checkpoint_cases() -> st.SearchStrategy[Any]:
    return st.one_of(changed_checkpoints("distdd", "collabdm open"), byte_edits())


@target(1000, _checkpoint_cases)
def checkpoints(case: Any) -> None:
    """CheckpointFolder.read: a checkpoint, or refused; one that was not re-sealed is always refused."""
    folder = fresh("read")
    raw = not isinstance(case, tuple)
    identity = {k: v for k, v in kept("distdd").header["identity"].items() if not k.startswith("version of ")}
    if raw:
        own = kept("distdd")
        write_checkpoint(folder / "run", own.header, own.state, own.memory)
        data = (folder / "run" / STATE).read_bytes()
        (folder / "run" / STATE).write_bytes(changed := edited_bytes(data, case))
        raw = changed != data
    else:
        write_changed(folder / "run", case)
        identity = {k: v for k, v in kept(case[0]).header["identity"].items() if not k.startswith("version of ")}
    found = outcome(lambda: CheckpointFolder(folder / "run", identity).read())
    if isinstance(found, PrivateDistDDError) and not isinstance(found, CheckpointError):
        raise Finding("a bad checkpoint is no CheckpointError", found)
    if raw and not isinstance(found, PrivateDistDDError):
        raise Finding("a changed checkpoint is read")


def check_resume(case: tuple[str, Any, Any, Any, Any]) -> None:
    """A run goes on and gives a release, or it is refused before anything is spent; afterwards a sound one goes on."""
    folder, name = fresh("resume"), case[0]
    write_changed(folder / "run", case)

    def resume(run: Path) -> Any:
        ledgers = []
        for owner, data in kept(name).ledgers.items():
            (folder / f"{owner}.jsonl").write_bytes(data)
            ledgers.append(Ledger(folder / f"{owner}.jsonl"))
        try:
            owners = [client(n, ledger) for n, ledger in zip(NAMES, ledgers, strict=True)]
            return outcome(lambda: RUNS[name].fit(owners, checkpoint=run, resume=True))
        finally:
            for ledger in ledgers:
                ledger.close()

    before = kept(name).ledgers
    found = resume(folder / "run")
    if isinstance(found, CheckpointError):
        if any((folder / f"{owner}.jsonl").read_bytes() != data for owner, data in before.items()):
            raise Finding("a refused checkpoint cost something", found)
        return
    if isinstance(found, DataError):  # of numbers that are finite, and overflow when S is matched: S is refused
        return
    if isinstance(found, PrivateDistDDError):
        raise Finding("a bad checkpoint is no CheckpointError", found)
    if not isinstance(found, Release):
        raise Finding("no release")


@target(150, lambda: changed_checkpoints("distdd", "distdd open"))
def resume_distdd(case: Any) -> None:
    """DistDD.fit(resume=True)."""
    check_resume(case)


@target(100, lambda: changed_checkpoints("collabdm", "collabdm open"))
def resume_collabdm(case: Any) -> None:
    """CollabDM.fit(resume=True)."""
    check_resume(case)


@target(100, lambda: changed_checkpoints("feddgm", "feddgm open"))
def resume_feddgm(case: Any) -> None:
    """FedDGM.fit(resume=True)."""
    check_resume(case)
