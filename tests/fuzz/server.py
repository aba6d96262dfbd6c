"""Clients, and engines, that answer with anything."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from private_distdd.engines.in_process import InProcess
from private_distdd.errors import PrivateDistDDError
from private_distdd.privacy.ledger import Charge
from private_distdd.server.reading import Wanted, read_answer
from private_distdd.site.client import Client
from private_distdd.storage import unpack
from private_distdd.wire.engine import ASK, ENROL
from private_distdd.wire.message import Message
from private_distdd.wire.refusal import Refusal
from private_distdd.wire.reply import Reply

from .harness import Finding, outcome
from .mutate import byte_edits, dump, edited, edited_bytes, edited_tensors, envelope, record_edits, tensor_edits, values
from .target import target
from .valid import INFO, NAMES, PLAN, QUERIES, RUN, RUNS, client
from .wire import VALID, split


class _Liar(InProcess):
    """The second client's answers or ledgers are another's idea."""

    def __init__(self, clients: Sequence[Client], change: Callable[[str, bytes], bytes]) -> None:
        super().__init__(clients)
        self._change = change

    def exchange(self, operation: str, requests: Mapping[str, bytes], **limits: Any) -> dict[str, bytes | None]:
        found = dict(super().exchange(operation, requests, **limits))
        if (data := found.get("b")) is not None:
            reply, kind = Reply.from_bytes(data), {ENROL: "enrolment", ASK: "message"}.get(operation)
            answer = reply.answer if kind is None else self._change(kind, reply.answer)
            found["b"] = Reply(answer, self._change("ledger", reply.ledger)).to_bytes()
        return found


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
    if failures := result.failures():
        raise Finding(f"one client's {which} makes a release that does not verify: {failures[0]:.80}")
    if "a" not in result.card["clients"] or "a" in result.card.get("unaccounted", {}):
        raise Finding(f"one client's {which} costs another its bill")


_WANTED = Wanted(QUERIES["class_gradients"], (2, 64), as_measured=True)
_HONEST = Message(
    NAMES[0],
    _WANTED.query.message_id,
    _WANTED.query.digest,
    torch.from_numpy(np.random.default_rng(0).normal(1.0, PLAN.noise_multiplier / PLAN.divisor, (2, 64))).float(),
)


def _hostile() -> st.SearchStrategy[bytes]:
    """Messages that no honest client sends: one thing is wrong with each, at the least."""
    header, tensors = unpack(_HONEST.data)
    values = tensors["values"]
    text = st.text(max_size=70)

    def one(index: int, value: float) -> bytes:
        changed = values.clone()
        changed.view(-1)[index] = value
        return envelope(header, {"values": changed})

    def scaled(group: int, power: int, sign: int) -> bytes:
        changed = values.double()
        changed[group] *= sign * 10.0**power
        return envelope(header, {"values": changed.float()})

    def named(field: str, value: str) -> bytes:
        return envelope({**header, field: value if value != header[field] else f"{value}x"}, tensors)

    def shaped(shape: list[int], dtype: torch.dtype) -> bytes:
        other = torch.ones(shape).to(dtype)
        return envelope(header, {"values": other if other.shape != values.shape else values.double()})

    def beside(counts: list[int]) -> bytes:
        return envelope(header, {"values": values, "counts": torch.tensor(counts, dtype=torch.int64)})

    types = [torch.float32, torch.float64, torch.float16, torch.int64, torch.bool]
    whole = st.integers(-(2**63), 2**63 - 1)
    return st.one_of(
        st.builds(one, st.integers(0, 127), st.sampled_from([math.nan, math.inf, -math.inf, 3e38, -1e30])),
        st.builds(
            scaled, st.integers(0, 1), st.integers(-60, 60).filter(lambda p: not 0 <= p < 10), st.sampled_from([1, -1])
        ),
        st.builds(named, st.sampled_from(["client_id", "message_id", "query_digest"]), text),
        st.builds(named, st.just("message_id"), st.sampled_from(["run-1:000001", "run-2:000000"])),
        st.builds(named, st.just("client_id"), st.just(NAMES[1])),
        st.builds(
            shaped,
            st.lists(st.integers(0, 70), max_size=4).filter(lambda s: math.prod(s) < 10**4),
            st.sampled_from(types),
        ),
        st.builds(beside, st.lists(whole, max_size=4)),
        st.integers(0, len(_HONEST.data) - 1).map(lambda length: _HONEST.data[:length]),
        st.binary(min_size=1, max_size=3).map(lambda more: _HONEST.data + more),
        st.binary(max_size=64),
    )


@target(1000, lambda: st.lists(_hostile(), min_size=10, max_size=10))
def hostile_messages(case: list[bytes]) -> None:
    """Ten thousand in CI: of wrong values, norm, shape, type, round or client.  None is taken for an answer."""

    def read(answer: bytes) -> Any:
        return outcome(lambda: read_answer(RUN, len(NAMES), NAMES[0], _WANTED, Reply(answer, b"")))

    for answer in case:
        if isinstance(read(answer), Message):
            raise Finding("a hostile message is accepted")
    if not isinstance(read(_HONEST.data), Message):
        raise Finding("an honest message is not accepted afterwards")


class _Chaos(InProcess):
    """Every reply is what the next fate makes of it: as it is, lost, changed, an earlier one, or anything at all."""

    def __init__(self, clients: Sequence[Client], fates: Sequence[Any]) -> None:
        super().__init__(clients)
        self._fates, self._number, self._earlier = fates, 0, [b""]

    def exchange(self, operation: str, requests: Mapping[str, bytes], **limits: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, data in super().exchange(operation, requests, **limits).items():
            how, value = self._fates[self._number % len(self._fates)]
            self._number += 1
            assert data is not None
            if how == "raise":
                raise value
            if how != "none":
                found[name] = self._made(how, value, data)
            if how == "stranger":
                found["c"] = data
            self._earlier.append(data)
        return found

    def _made(self, how: str, value: Any, data: bytes) -> Any:
        reply = Reply.from_bytes(data)
        match how:
            case "edit":
                return edited_bytes(data, value)
            case "answer":
                return Reply(edited_bytes(reply.answer, value), reply.ledger).to_bytes()
            case "ledger":
                return Reply(reply.answer, edited_bytes(reply.ledger, value)).to_bytes()
            case "earlier":
                return self._earlier[value % len(self._earlier)]
            case "anything":
                return value
        return data


def _fates() -> st.SearchStrategy[Any]:
    fate = st.one_of(
        st.tuples(st.sampled_from(["as it is", "as it is", "none", "stranger"]), st.none()),
        st.tuples(st.sampled_from(["edit", "answer", "ledger"]), byte_edits()),
        st.tuples(st.just("earlier"), st.integers(0, 50)),
        st.tuples(st.just("anything"), st.binary(max_size=64) | values()),
        st.tuples(st.just("raise"), st.sampled_from([OSError("lost"), ValueError(), MemoryError()])),
    )
    return st.tuples(st.sampled_from(sorted(RUNS)), st.lists(fate, min_size=1, max_size=12))


# What is said where nothing at all came of what a run cannot do without.
_NOBODY = ("a run that no client agrees to", "a query that no client answers", "of its rarest class")


@target(150, _fates)
def exchanges(case: tuple[str, Any]) -> None:
    """An engine returns anything for anybody: a release that verifies, or an error that says who did not answer."""
    name, fates = case
    owners = [client("a"), client("b")]
    result = outcome(lambda: RUNS[name].fit(_Chaos(owners, fates), info=INFO))
    if isinstance(result, PrivateDistDDError):
        if not any(reason in str(result) for reason in _NOBODY):
            raise Finding("an engine's bytes end the run", result)
        return
    failures = result.failures()
    if failures and (failures != ["card: it names no client"] or result.private):  # every ledger was lost
        raise Finding(f"an engine's bytes make a release that does not verify: {failures[0]:.80}")
    for owner in owners:  # who is asked anew after a lost reply repeats its bytes, and pays once
        rounds = [entry.message_id for entry in owner.ledger if isinstance(entry, Charge)]
        if len(set(rounds)) != len(rounds):
            raise Finding("a message was charged twice")
