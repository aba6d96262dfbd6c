"""Bytes that claim to be messages."""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import Any

from hypothesis import strategies as st
from torch import Tensor

from private_distdd.storage import unpack
from private_distdd.wire.message import Message
from private_distdd.wire.query import Query
from private_distdd.wire.refusal import Refusal
from private_distdd.wire.reply import Reply
from private_distdd.wire.run import Enrolment, Run

from .harness import Finding, outcome, succeeds
from .mutate import byte_edits, dump, edited, edited_bytes, edited_tensors, envelope, record_edits, tensor_edits
from .target import target
from .valid import (
    MESSAGE,
    OPEN_MESSAGE,
    OPEN_RUN,
    QUERIES,
    RUN,
)


def parsed(kind: str, data: bytes) -> Any:
    """What the bytes say; and written again, it says the same."""
    if kind == "refusal":
        refusal = Refusal.from_bytes(data)
        return None if refusal is None else Refusal.from_bytes(refusal.to_bytes())
    found = {"run": Run, "enrolment": Enrolment, "query": Query, "message": Message}[kind].from_bytes(data)
    if isinstance(found, Query | Message):
        found = dataclasses.replace(found)  # it remembers the bytes that it was read from: now it writes its own
    again = found.data if isinstance(found, Query | Message) else found.to_bytes()
    second = type(found).from_bytes(again)
    if (second.data if isinstance(second, Query | Message) else second.to_bytes()) != again:
        raise Finding(f"a {kind} that is read otherwise when it is written again")
    if isinstance(found, Run):
        return found.terms_digest
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


REPLIES = (Reply(MESSAGE.data, b'{"kind":"open"}\n'), Reply(b"", b"ledger"), Reply(Refusal("budget").to_bytes(), b""))


def _replies() -> st.SearchStrategy[bytes]:
    lengths = st.one_of(st.integers(0, 300), st.sampled_from([2**31, 2**63 - 1, 2**63, 2**64 - 1]))
    lying = st.tuples(lengths, st.binary(max_size=300)).map(lambda case: case[0].to_bytes(8, "big") + case[1])
    changed = st.tuples(st.sampled_from(REPLIES), byte_edits()).map(lambda c: edited_bytes(c[0].to_bytes(), c[1]))
    return st.one_of(lying, lying, changed, st.binary(max_size=16))


@target(500, _replies)
def reply_bytes(case: bytes) -> None:
    """Bytes are read as one reply, whole, or refused."""
    reply = outcome(lambda: Reply.from_bytes(case))
    if isinstance(reply, Reply) and reply.to_bytes() != case:
        raise Finding("a reply that is read otherwise when it is written again")
    for sound in REPLIES:
        if succeeds(lambda sound=sound: Reply.from_bytes(sound.to_bytes())) != sound:  # type: ignore[misc]
            raise Finding("a sound reply is not read as it was")
