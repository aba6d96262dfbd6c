"""What a client is offered and asked."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import strategies as st
from torch import Tensor

from private_distdd.engines.in_process import InProcess
from private_distdd.errors import PrivateDistDDError
from private_distdd.privacy.ledger import Budget, Ledger
from private_distdd.storage import unpack
from private_distdd.wire.attestation import Signed
from private_distdd.wire.engine import ASK, ENROL, LEDGER
from private_distdd.wire.message import Message
from private_distdd.wire.query import Query
from private_distdd.wire.refusal import Refusal
from private_distdd.wire.reply import Reply
from private_distdd.wire.run import Enrolment, Run

from .harness import Finding, answered, outcome, succeeds
from .mutate import dump, edited, edited_tensors, envelope, record_edits, tensor_edits
from .target import target
from .valid import (
    LATER,
    OPEN_RUN,
    QUERIES,
    RUN,
    client,
)
from .wire import changed_messages


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
    succeeds(lambda: own.answer(dataclasses.replace(QUERIES[name], server_round=LATER)))


def _object(record: Any) -> dict[str, Any]:
    return record if isinstance(record, dict) else {"arguments": record}


@target(600, lambda: changed_queries("class_gradients", "joint", "class_embeddings", "local_trainings"))
def answers(case: tuple[str, Any, Any]) -> None:
    """Queries with privacy."""
    check_answer(case)


OPEN = ("open gradients", "open embeddings", "class_examples", "class_distillations", "class_counts")


@target(1400, lambda: changed_queries(*OPEN))
def open_answers(case: tuple[str, Any, Any]) -> None:
    """Queries without privacy."""
    check_answer(case)


_OWN = "own"  # the operation that the bytes are made for


def _requests() -> st.SearchStrategy[tuple[tuple[str, bytes], str]]:
    operations = st.sampled_from([_OWN, _OWN, _OWN, ENROL, ASK, LEDGER, "", "enrol "])
    return st.tuples(changed_messages("run", "query"), operations)


@target(1000, _requests)
def transport(case: tuple[tuple[str, bytes], str]) -> None:
    """Whatever comes in, the transport raises nothing, and what goes out can be read; a refusal cost nothing."""
    (kind, data), operation = case
    if operation == _OWN:
        operation = ENROL if kind == "run" else ASK
    own = client()
    ends = InProcess([own])
    for run in (RUN, OPEN_RUN):
        succeeds(lambda run=run: own.enroll(run))  # type: ignore[misc]
    before = len(own.ledger.events)
    found = outcome(lambda: ends.exchange(operation, {"a": data}))
    if not isinstance(found, Mapping) or not isinstance(found["a"], bytes):
        raise Finding("the transport raised", found if isinstance(found, PrivateDistDDError) else None)
    reply = succeeds(lambda: Reply.from_bytes(found["a"]))
    if reply.ledger != own.ledger.to_bytes():
        raise Finding("the ledger beside an answer is not the client's")
    refusal = Refusal.from_bytes(reply.answer)
    read: Callable[[bytes], Any] | None = {
        ENROL: Enrolment.from_bytes,
        ASK: Message.from_bytes,
        LEDGER: Signed.from_bytes,
    }.get(operation)
    readable = read is not None and not isinstance(outcome(lambda: read(reply.answer)), PrivateDistDDError)
    if refusal is None and not readable and (operation, data, reply.answer) != (LEDGER, b"", b""):
        raise Finding("a reply that nobody can read")
    if refusal is not None and refusal.code != "failed" and len(own.ledger.events) != before:
        raise Finding(f"{refusal.code!r} was charged")
    succeeds(lambda: own.answer(dataclasses.replace(QUERIES["class_gradients"], server_round=LATER)))
