"""What is attacked: each target a strategy of cases, and the check of one case."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from hypothesis import strategies as st
from torch import Tensor

from private_distdd.cli import main
from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.engines.in_process import InProcess
from private_distdd.errors import CheckpointError, DataError, PrivateDistDDError
from private_distdd.limits import GIB, ComputeLimits
from private_distdd.methods.collabdm import CollabDM
from private_distdd.methods.distdd import DistDD
from private_distdd.networks.embedding import EmbeddingSpec
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.events import Composition, NotPrivate, SampledGaussian
from private_distdd.privacy.ledger import Budget, Ledger, parse
from private_distdd.privacy.plan import Privacy, PrivacyPlan
from private_distdd.release.card import render_card
from private_distdd.release.folder import MANIFEST, manifest_of, pretty
from private_distdd.release.release import Release, verify_folder
from private_distdd.server.checkpoint import STATE, CheckpointFolder
from private_distdd.site.client import Client
from private_distdd.storage import unpack
from private_distdd.wire.message import Message
from private_distdd.wire.query import Query
from private_distdd.wire.refusal import Refusal
from private_distdd.wire.run import Enrolment, Run

from .harness import Finding, answered, bounded, outcome, succeeds, unchanged
from .mutate import byte_edits, dump, edited, edited_bytes, edited_tensors, envelope, record_edits, tensor_edits

INFO = DatasetInfo("tiny", 2, (1, 8, 8))
PLAN = PrivacyPlan(2.0, 0.5, 1.0, 4.0, 1000, 1e-5)
SPEC = ModelSpec("mlp", {"width": 8, "depth": 1})
CONVNET = ModelSpec("convnet", {"width": 8, "depth": 1})
EMBEDDING = EmbeddingSpec(CONVNET, (5, 6), 2, 0.5, 4, False)
NAMES = ("a", "b")
_LATER = 999_983  # a round that no case asks


@dataclass(frozen=True)
class Target:
    """One way in.

    Args:
        name: of the test.
        cases: how many in CI's budget.
        strategy: made late, for it may need a run.
        check: raises a Finding.
    """

    name: str
    cases: int
    strategy: Callable[[], st.SearchStrategy[Any]]
    check: Callable[[Any], None]


TARGETS: list[Target] = []


def target(
    cases: int, strategy: Callable[[], st.SearchStrategy[Any]]
) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Decorator: register the check of one case."""

    def register(check: Callable[[Any], None]) -> Callable[[Any], None]:
        TARGETS.append(Target(check.__name__, cases, strategy, check))
        return check

    return register


@functools.cache
def place() -> Path:
    """A folder of this process; in memory where there is one, for thousands of small files are flushed."""
    memory = Path("/dev/shm")  # noqa: S108 - a fresh folder below it
    folder = tempfile.mkdtemp(prefix="fuzz-", dir=memory if os.access(memory, os.W_OK) else None)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def fresh(name: str) -> Path:
    """An empty folder of that name."""
    shutil.rmtree(place() / name, ignore_errors=True)
    (place() / name).mkdir()
    return place() / name


def images(seed: int) -> ImageDataset:
    """Six of each class: no computation fails because of what the client holds."""
    rng = np.random.default_rng(seed)
    pixels = torch.from_numpy(rng.standard_normal((12, *INFO.shape), dtype=np.float32))
    return ImageDataset(pixels, torch.arange(12) % 2, INFO)


def client(name: str = "a", ledger: Ledger | None = None) -> Client:
    """Answers with and without privacy, with an owner's limits that suit these tests."""
    limits = ComputeLimits(memory=GIB, work=1e8)
    return Client(name, images(NAMES.index(name)), ledger, allow_without_privacy=True, limits=limits)


# Messages: bytes in

RUN, OPEN_RUN = Run("run-1", INFO, PLAN), Run("run-2", INFO, None)
DISTILLATION = {
    "embedding": EMBEDDING.to_json(),
    "counts": [2, 1],
    "partition": 2,
    "steps": 2,
    "rate": 0.1,
    "smoothness": 0.1,
    "seed": 3,
}
GRADIENTS = {"model": SPEC.to_json(), "granularity": "class"}
JOINT = {"model": CONVNET.to_json(), "granularity": "joint"}


def weights(spec: ModelSpec, seed: int = 0) -> dict[str, Tensor]:
    """A network's state."""
    return dict(spec.build(INFO.shape, INFO.num_classes, seed).state_dict())


def question(
    run: Run,
    question: str,
    arguments: Mapping[str, Any],
    tensors: Mapping[str, Tensor] | None = None,
    batch: tuple[tuple[int, ...], int] | None = None,
    server_round: int = 0,
) -> Query:
    """A valid query."""
    return Query(run.run_id, server_round, question, arguments, tensors or {}, run.plan, batch)


QUERIES = {
    "class_gradients": question(RUN, "class_gradients", GRADIENTS, weights(SPEC)),
    "joint": question(RUN, "class_gradients", JOINT, weights(CONVNET)),
    "class_embeddings": question(RUN, "class_embeddings", EMBEDDING.to_json()),
    "open gradients": question(OPEN_RUN, "class_gradients", GRADIENTS, weights(SPEC), ((2, 3), 7)),
    "open embeddings": question(OPEN_RUN, "class_embeddings", EMBEDDING.to_json()),
    "class_examples": question(OPEN_RUN, "class_examples", {"counts": [2, 1]}, None, ((2, 1), 5)),
    "class_distillations": question(OPEN_RUN, "class_distillations", DISTILLATION),
    "class_counts": question(OPEN_RUN, "class_counts", {}),
}
MESSAGE = Message("a", "run-1:000000", QUERIES["class_gradients"].digest, torch.ones(2, 3))
OPEN_MESSAGE = Message("a", "run-2:000000", QUERIES["class_counts"].digest, torch.ones(2, 3), torch.tensor([1, 2]))


def parsed(kind: str, data: bytes) -> Any:
    """What the bytes say; and written again, it says the same."""
    if kind == "refusal":
        refusal = Refusal.from_bytes(data)
        return None if refusal is None else Refusal.from_bytes(refusal.to_bytes())
    found = {"run": Run, "enrolment": Enrolment, "query": Query, "message": Message}[kind].from_bytes(data)
    again = found.data if isinstance(found, Query | Message) else found.to_bytes()
    second = type(found).from_bytes(again)
    if (second.data if isinstance(second, Query | Message) else second.to_bytes()) != again:
        raise Finding(f"a {kind} that is read otherwise when it is written again")
    if isinstance(found, Run):
        return found.terms
    return found.digest if isinstance(found, Query) else found


VALID: dict[str, list[bytes]] = {
    "run": [RUN.to_bytes(), OPEN_RUN.to_bytes()],
    "enrolment": [Enrolment("a").to_bytes()],
    "query": [query.data for query in QUERIES.values()],
    "message": [MESSAGE.data, OPEN_MESSAGE.data],
    "refusal": [Refusal("budget").to_bytes()],
}


def split(data: bytes) -> tuple[Any, dict[str, Tensor]]:
    """A message's record and tensors."""
    return (json.loads(data), {}) if data.startswith(b"{") else unpack(data)


@functools.cache
def changed_messages(*kinds: str) -> st.SearchStrategy[tuple[str, bytes]]:
    """(kind, bytes): every kind as often as another, and in each, bytes, fields and tensors changed."""

    def of(kind: str, data: bytes) -> st.SearchStrategy[tuple[str, bytes]]:
        record, tensors = split(data)

        def rebuilt(case: tuple[Any, Any]) -> tuple[str, bytes]:
            found = edited(record, case[0])
            bare = data.startswith(b"{")
            return kind, dump(found).encode() if bare else envelope(found, edited_tensors(tensors, case[1]))

        changes = st.tuples(record_edits(record), st.just(()) | tensor_edits(sorted(tensors)))
        raw = byte_edits().map(lambda edits: (kind, edited_bytes(data, edits)))
        return st.one_of(changes.map(rebuilt), changes.map(rebuilt), raw)

    parts = [of(kind, data) for kind in kinds for data in VALID[kind]]
    return st.one_of(st.tuples(st.sampled_from(kinds), st.binary(max_size=64)), *parts)


@target(3000, lambda: changed_messages(*VALID))
def messages(case: tuple[str, bytes]) -> None:
    """Bytes of every kind of message are read, or refused."""
    kind, data = case
    outcome(lambda: parsed(kind, data))
    succeeds(lambda: parsed(kind, VALID[kind][0]))


# The client


@target(1000, lambda: st.tuples(record_edits(json.loads(RUN.to_bytes())), st.booleans()))
def enrolments(case: tuple[Any, bool]) -> None:
    """A run is agreed to, or refused and not pinned."""
    edits, budgeted = case
    own = client(ledger=Ledger(None, Budget(1e5, 1e-5)) if budgeted else None)
    before = len(own.ledger)
    run = outcome(lambda: Run.from_bytes(dump(edited(json.loads(RUN.to_bytes()), edits)).encode()))
    if isinstance(run, Run):
        result = answered(own.ledger, lambda: own.enroll(run))
        if isinstance(result, PrivateDistDDError) and len(own.ledger) != before:
            raise Finding("a refused run is pinned", result)
    other = dataclasses.replace(RUN, run_id="run-valid")
    succeeds(lambda: own.enroll(other))
    succeeds(lambda: own.answer(dataclasses.replace(QUERIES["class_gradients"], run_id="run-valid")))


@functools.cache
def changed_queries(*names: str) -> st.SearchStrategy[tuple[str, Any, Any]]:
    """(name of a valid query, edits of its record, edits of its tensors): statistic, arguments and batch alone."""

    def of(name: str) -> st.SearchStrategy[tuple[str, Any, Any]]:
        record, tensors = asked(name)
        return st.tuples(st.just(name), record_edits(record), st.just(()) | tensor_edits(sorted(tensors)))

    return st.one_of(*[of(name) for name in names])


def asked(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a query asks, as JSON, without what it must share with its run, and its tensors."""
    header, tensors = unpack(QUERIES[name].data)
    return {field: header[field] for field in ("question", "arguments", "batch", "server_round")}, tensors


def check_answer(case: tuple[str, Any, Any]) -> None:
    """A query is answered with a message that can be read, or refused for nothing; then a valid one is answered."""
    name, edits, changes = case
    record, tensors = asked(name)
    run = RUN if QUERIES[name].plan is not None else OPEN_RUN
    header = unpack(QUERIES[name].data)[0]
    own = client()
    own.enroll(run)
    changed = edited(record, edits)
    data = envelope({**header, **_object(changed)}, edited_tensors(tensors, changes))
    query = outcome(lambda: Query.from_bytes(data))
    if isinstance(query, Query):
        result = answered(own.ledger, lambda: own.answer(query))
        if isinstance(result, Message):
            again = outcome(lambda: Message.from_bytes(result.data))
            if isinstance(again, PrivateDistDDError):
                raise Finding("charged for a message that nobody can read", again)
    succeeds(lambda: own.answer(dataclasses.replace(QUERIES[name], server_round=_LATER)))


def _object(record: Any) -> dict[str, Any]:
    return record if isinstance(record, dict) else {"arguments": record}


@target(600, lambda: changed_queries("class_gradients", "joint", "class_embeddings"))
def answers(case: tuple[str, Any, Any]) -> None:
    """Queries with privacy."""
    check_answer(case)


OPEN = ("open gradients", "open embeddings", "class_examples", "class_distillations", "class_counts")


@target(1400, lambda: changed_queries(*OPEN))
def open_answers(case: tuple[str, Any, Any]) -> None:
    """Queries without privacy."""
    check_answer(case)


@target(1000, lambda: st.tuples(changed_messages("run", "query"), st.booleans()))
def transport(case: tuple[tuple[str, bytes], bool]) -> None:
    """Whatever comes in, the transport raises nothing, and what goes out can be read."""
    (kind, data), offered = case
    own = client()
    ends = InProcess([own])
    for run in (RUN, OPEN_RUN):
        succeeds(lambda run=run: own.enroll(run))  # type: ignore[misc]
    call = (lambda: ends.enroll("a", data)) if kind == "run" or offered else (lambda: ends.ask("a", data))
    reply = outcome(call)
    if not isinstance(reply, bytes):
        raise Finding("the transport raised", reply)
    read = (Refusal.from_bytes, Enrolment.from_bytes if kind == "run" or offered else Message.from_bytes)
    if read[0](reply) is None and isinstance(outcome(lambda: read[1](reply)), PrivateDistDDError):
        raise Finding("a reply that nobody can read")
    succeeds(lambda: own.answer(dataclasses.replace(QUERIES["class_gradients"], server_round=_LATER)))


# The server: clients that answer with anything


class _Liar(InProcess):
    """The second client's replies are another's idea."""

    def __init__(self, clients: Sequence[Client], change: Callable[[str, bytes], bytes]) -> None:
        super().__init__(clients)
        self._change = change

    def enroll(self, client_id: str, run: bytes) -> bytes:
        data = super().enroll(client_id, run)
        return self._change("enrolment", data) if client_id == "b" else data

    def ask(self, client_id: str, query: bytes) -> bytes:
        data = super().ask(client_id, query)
        return self._change("message", data) if client_id == "b" else data

    def ledger(self, client_id: str) -> bytes:
        data = super().ledger(client_id)
        return self._change("ledger", data) if client_id == "b" else data


def _lies() -> st.SearchStrategy[tuple[str, str, Any, Any]]:
    names = ["values", "counts"]
    records = record_edits(*(split(data)[0] for data in (*VALID["message"], *VALID["enrolment"])))
    return st.tuples(
        st.sampled_from(sorted(RUNS)),
        st.sampled_from(["message", "message", "enrolment", "ledger"]),
        st.one_of(byte_edits(), records, st.just(())),
        tensor_edits(names),
    )


@target(150, _lies)
def replies(case: tuple[str, str, Any, Any]) -> None:
    """One client's replies are garbage: the others' run ends with a release, or says why not."""
    name, which, edits, changes = case

    def change(kind: str, data: bytes) -> bytes:
        if kind != which or Refusal.from_bytes(data) is not None:
            return data
        if kind == "ledger" or (edits and isinstance(edits[0][0], int)):
            return edited_bytes(data, edits if edits and isinstance(edits[0][0], int) else [(5, "flip", b"1")])
        record, tensors = split(data)
        found = edited(record, edits)
        return envelope(found, edited_tensors(tensors, changes)) if tensors else dump(found).encode()

    ends = _Liar([client("a"), client("b")], change)
    result = outcome(lambda: RUNS[name].fit(ends, info=INFO))
    if isinstance(result, PrivateDistDDError):
        raise Finding(f"one client's {which} ends the run", result)


# Checkpoints

_PRIVACY = Privacy(noise_multiplier=2.0, sample_rate=0.5)
_DISTDD = DistDD(ipc=1, rounds=4, model="mlp", model_args=dict(SPEC.arguments), matching_steps=1, network_steps=1)
_COLLABDM = CollabDM(ipc=1, networks=2, frequencies=4, model_args=dict(CONVNET.arguments), matching_steps=2)
RUNS: dict[str, DistDD | CollabDM] = {
    "distdd": dataclasses.replace(_DISTDD, privacy=_PRIVACY, memory=2),
    "distdd open": dataclasses.replace(_DISTDD, initialization="real", batch_per_class=3, matching_optimizer="sgd"),
    "collabdm": dataclasses.replace(_COLLABDM, privacy=_PRIVACY),
    "collabdm open": dataclasses.replace(_COLLABDM, local_steps=1),
}


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


# Ledgers


@functools.cache
def ledger_records() -> list[dict[str, Any]]:
    """The lines of a ledger with every kind of line and event, without what chains them."""
    path = fresh("ledger") / "a.jsonl"
    with Ledger(path, Budget(1000.0, 1e-5), client_id="a") as ledger:
        ledger.pin("run-1", SampledGaussian(2.0, 0.5), 5, "0" * 64)
        ledger.charge(SampledGaussian(2.0, 0.5), "run-1:000000")
        ledger.seal("run-1:000000", "1" * 64)
        ledger.charge(Composition((SampledGaussian(3.0, 1.0, 2), SampledGaussian(4.0, 0.25))), "run-2:0")
    path.write_bytes(path.read_bytes() + b'{"torn')
    with Ledger(path) as ledger:
        return [json.loads(line) for line in ledger.to_bytes().splitlines()]


def chained(records: Sequence[Any], anew: bool = True) -> bytes:
    """The records as lines, with numbers, hashes and checksums made anew."""
    lines, previous = [], "0" * 64
    for index, record in enumerate(records):
        if anew and isinstance(record, dict):
            record = {k: v for k, v in record.items() if k != "crc"} | {"index": index, "previous": previous}
            record["crc"] = f"{zlib.crc32(dump(record).encode()):08x}"
        line = dump(record).encode()
        previous = hashlib.sha256(line).hexdigest()
        lines.append(line + b"\n")
    return b"".join(lines)


def _ledger_cases() -> st.SearchStrategy[bytes]:
    records = ledger_records()
    sound = chained(records)
    assert parse(sound).to_bytes() == sound  # else no case would reach what lies behind the hashes
    remade = record_edits(records).map(lambda edits: edited(records, edits))
    remade = remade.map(lambda found: chained(found if isinstance(found, list) else [found]))
    return st.one_of(remade, remade, byte_edits().map(lambda edits: edited_bytes(sound, edits)), st.binary(max_size=64))


def _spend(ledger: Ledger) -> None:
    """What a client does with a ledger that could be read."""
    for event, run_id in ((SampledGaussian(5.0, 0.5), "late"), (NotPrivate(), "open")):
        with contextlib.suppress(PrivateDistDDError):
            ledger.pin(run_id, event, 3)
        with contextlib.suppress(PrivateDistDDError):
            ledger.charge(event, f"{run_id}:0")


@target(1000, _ledger_cases)
def ledgers(case: bytes) -> None:
    """A ledger's bytes are read, or refused."""
    history = outcome(lambda: parse(case))
    if not isinstance(history, PrivateDistDDError) and history.to_bytes() != case:
        raise Finding("a ledger that is written otherwise than it was read")


@target(400, _ledger_cases)
def ledger_files(case: bytes) -> None:
    """A ledger's file is opened, and used, or refused and left as it was."""
    path = fresh("ledger") / "a.jsonl"
    path.write_bytes(case)
    ledger = unchanged(path, lambda: Ledger(path))
    if isinstance(ledger, Ledger):
        with ledger:
            outcome(lambda: _spend(ledger))
    path.write_bytes(chained(ledger_records()))
    succeeds(lambda: Ledger(path)).close()


# Releases


@functools.cache
def released(name: str) -> dict[str, bytes]:
    """The files of a sound release."""
    folder = fresh("released")
    with bounded():
        RUNS[name].fit([client(n) for n in NAMES]).save(folder / "run")
    files = sorted(path for path in (folder / "run").rglob("*") if path.is_file())
    found = {str(path.relative_to(folder / "run")): path.read_bytes() for path in files}
    assert not verify_folder(folder / "run")
    return found


RELEASES = ("distdd", "collabdm open")


def write_release(folder: Path, files: Mapping[str, bytes]) -> None:
    """The files, with a manifest made anew."""
    contents = {name: data for name, data in files.items() if name != MANIFEST}
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    for name, data in {**contents, MANIFEST: manifest_of(hashes)}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


@functools.cache
def changed_releases() -> st.SearchStrategy[Any]:
    """(release, what is changed, edits): a card, a ledger, S, or some bytes of a file; all re-sealed but the last."""

    def of(name: str) -> st.SearchStrategy[Any]:
        files = released(name)
        card = json.loads(files["card.json"])
        synthetic = safetensors.torch.load(files["synthetic.safetensors"])
        base, own = st.just(name), [json.loads(line) for line in files["ledgers/a.jsonl"].splitlines()]
        cards = st.tuples(base, st.just("card"), record_edits(card))
        return st.one_of(
            cards,
            cards,
            cards,
            st.tuples(base, st.just("ledger"), record_edits(own)),
            st.tuples(base, st.just("header"), record_edits(_synthetic_header(files))),
            st.tuples(base, st.just("tensors"), tensor_edits(sorted(synthetic))),
            st.tuples(base, st.sampled_from(sorted(files)), byte_edits()),
            st.tuples(base, st.sampled_from([f"raw {file}" for file in sorted(files)]), byte_edits()),
        )

    return st.one_of(*[of(name) for name in RELEASES])


def _synthetic_header(files: Mapping[str, bytes]) -> Any:
    data = files["synthetic.safetensors"]
    return json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["json"])


def write_changed_release(folder: Path, case: tuple[str, str, Any]) -> None:
    """The folder that a case says."""
    name, what, edits = case
    files = dict(released(name))
    if what == "card":
        card = edited(json.loads(files["card.json"]), edits)
        files["card.json"] = (json.dumps(json.loads(dump(card)), indent=1, sort_keys=True) + "\n").encode()
        with contextlib.suppress(Exception):  # a card that no page can show keeps the old one
            files["card.html"] = render_card(card).encode()
    elif what == "ledger":
        records = edited([json.loads(line) for line in files["ledgers/a.jsonl"].splitlines()], edits)
        files["ledgers/a.jsonl"] = data = chained(records if isinstance(records, list) else [records])
        card = json.loads(files["card.json"])
        card["clients"]["a"] |= {
            "ledger_head": hashlib.sha256(data[:-1].rpartition(b"\n")[2]).hexdigest(),
            "ledger_lines": data.count(b"\n"),
        }
        files["card.json"] = pretty(card)
        files["card.html"] = render_card(card).encode()
    elif what in ("header", "tensors"):
        tensors = safetensors.torch.load(files["synthetic.safetensors"])
        header = _synthetic_header(files)
        header = edited(header, edits) if what == "header" else header
        tensors = edited_tensors(tensors, edits) if what == "tensors" else tensors
        files["synthetic.safetensors"] = envelope(header, tensors)
    elif not what.startswith("raw "):
        files[what] = edited_bytes(files[what], edits)
    write_release(folder, files)
    if what.startswith("raw "):
        path = folder / what[4:]
        path.write_bytes(edited_bytes(path.read_bytes(), edits))


@target(300, changed_releases)
def releases(case: tuple[str, str, Any]) -> None:
    """A release verifies, or what is wrong is said; and it loads, or is refused."""
    folder = fresh("release") / "run"
    _written(folder, case)
    failures = outcome(lambda: verify_folder(folder))
    if isinstance(failures, PrivateDistDDError):
        raise Finding("verify_folder raised", failures)
    if any("MemoryError" in line or "allocate" in line for line in failures):
        raise Finding(f"memory is not bounded: {failures[0][:80]}")
    outcome(lambda: Release.load(folder))


@target(100, changed_releases)
def command(case: tuple[str, str, Any]) -> None:
    """`private-distdd verify` ends with 0, 1 or 2, and shows no traceback."""
    folder = fresh("release") / "run"
    _written(folder, case)
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        code = outcome(lambda: main(["verify", str(folder)]))
    if not isinstance(code, int) or code not in (0, 1, 2) or "Traceback" in text.getvalue():
        raise Finding(f"verify ended with {code!r}")


def _written(folder: Path, case: tuple[str, str, Any]) -> None:
    try:
        write_changed_release(folder, case)
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):  # no file could say so
        shutil.rmtree(folder, ignore_errors=True)
        write_release(folder, released(case[0]))
