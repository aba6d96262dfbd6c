"""What crosses the wire: Run, Enrolment, Query, Message, Refusal.  Frozen, validated, as safetensors and JSON."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from private_distdd.data.datasets import DatasetInfo
from private_distdd.errors import PrivateDistDDError, QueryRefusedError
from private_distdd.limits import CONTROL_BYTES, NAME_LENGTH
from private_distdd.privacy.spec import PrivacyPlan, require_count
from private_distdd.storage import pack, to_json, unpack

IDENTIFIER = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ROUNDS = 999_999_999  # a ledger's message ids have at most nine digits for the round
_INT64 = (1 << 63) - 1
Parsed = TypeVar("Parsed")


def require_identifier(name: str, value: object) -> str:
    """`value` if it may name a client or a run.

    Raises:
        QueryRefusedError: it is not `[A-Za-z0-9_-]{1,64}`.
    """
    if not isinstance(value, str) or not IDENTIFIER.fullmatch(value):
        raise QueryRefusedError(f"{name} = {value!r}", "1 to 64 of A-Z a-z 0-9 _ -", "Choose another identifier.")
    return value


def _require_text(name: str, value: object, most: int) -> str:
    """`value` if it is a text of at most so many characters: what is no text must not become one.

    Raises:
        QueryRefusedError: it is not.
    """
    if not isinstance(value, str) or len(value) > most:
        raise QueryRefusedError(f"{name} = {value!r}", f"a text of at most {most} characters", "Correct it.")
    return value


def _json_object(name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise QueryRefusedError(f"{name} = {value!r}", "a JSON object", "Correct it.")
    return value


def message_id(run_id: str, server_round: int) -> str:
    """The name of one message in a client's ledger; of constant length within a run."""
    return f"{run_id}:{server_round:06d}"


@dataclass(frozen=True)
class Run:
    """What a client is asked to agree to once, before the first query: public constants only.

    Args:
        run_id: `[A-Za-z0-9_-]{1,64}`, fresh for each run.
        info: class list, image shape and normalisation.
        plan: the mechanism's constants, or None for a run without privacy.
    """

    run_id: str
    info: DatasetInfo
    plan: PrivacyPlan | None

    def __post_init__(self) -> None:
        require_identifier("run_id", self.run_id)

    def to_bytes(self) -> bytes:
        """JSON, ASCII."""
        plan = None if self.plan is None else self.plan.to_json()
        return to_json({"kind": "run", "run_id": self.run_id, "info": self.info.to_json(), "plan": plan}).encode()

    @property
    def terms(self) -> str:
        """SHA-256 of all that is agreed to, in hexadecimal: what a client's ledger pins."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @classmethod
    def from_bytes(cls, data: bytes) -> Run:
        """The run that `to_bytes` wrote.

        Raises:
            QueryRefusedError: the bytes are malformed or a value is out of range.
        """

        def parse() -> Run:
            record = _json_of_kind(data, "run", {"run_id", "info", "plan"})
            plan = None if record["plan"] is None else PrivacyPlan.from_json(record["plan"])
            return cls(record["run_id"], DatasetInfo.from_json(record["info"]), plan)

        return _or_refuse("run", parse)


@dataclass(frozen=True)
class Enrolment:
    """A client's consent to a run.  It carries nothing else: what depends on data is a message, and charged.

    Args:
        client_id: who agrees.
    """

    client_id: str

    def to_bytes(self) -> bytes:
        """JSON, ASCII."""
        return to_json({"kind": "enrolment", "client_id": self.client_id}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Enrolment:
        """The enrolment that `to_bytes` wrote.

        Raises:
            QueryRefusedError: the bytes are malformed.
        """

        def parse() -> Enrolment:
            record = _json_of_kind(data, "enrolment", {"client_id"})
            return cls(require_identifier("client_id", record["client_id"]))

        return _or_refuse("enrolment", parse)


@dataclass(frozen=True, eq=False)
class Query:
    """What the server asks in one round: a registered statistic, its public arguments and tensors.  Never code.

    Args:
        run_id: the run the client enrolled in.
        server_round: 0, 1, ... 999,999,999; one query a client and round.
        statistic: name of a registered per-example statistic ("class_gradients").
        arguments: JSON-able arguments of the statistic (model specification, granularity).
        tensors: tensors of the statistic (network weights).
        plan: the mechanism's constants again, which must equal what the client pinned; None without privacy.
        batch: without privacy only: how many examples of each class to draw, and the public seed of the draw.

    Raises:
        QueryRefusedError, ConfigurationError: a value is out of range.
    """

    run_id: str
    server_round: int
    statistic: str
    arguments: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    plan: PrivacyPlan | None
    batch: tuple[tuple[int, ...], int] | None = None

    def __post_init__(self) -> None:
        require_identifier("run_id", self.run_id)
        require_count("server_round", self.server_round, "Rounds are numbered from 0.", at_least=0, at_most=_ROUNDS)
        _require_text("statistic", self.statistic, NAME_LENGTH)
        if self.batch is None:
            return
        if self.plan is not None:
            raise QueryRefusedError(
                "a query with both a privacy plan and a class batch", "one of them", "With privacy, coins are secret."
            )
        counts, seed = self.batch
        for count in counts:
            require_count("batch", count, "Ask for so many examples of each class.", at_least=0, at_most=_INT64)
        require_count("seed of the batch", seed, "Any whole number from 0 on.", at_least=0, at_most=_INT64)

    @property
    def message_id(self) -> str:
        """The ledger's name for the answer."""
        return message_id(self.run_id, self.server_round)

    @cached_property
    def data(self) -> bytes:
        """The query as bytes; equal queries give equal bytes."""
        header = {
            "kind": "query",
            "run_id": self.run_id,
            "server_round": self.server_round,
            "statistic": self.statistic,
            "arguments": dict(self.arguments),
            "plan": None if self.plan is None else self.plan.to_json(),
            "batch": self.batch,
        }
        return pack(header, self.tensors)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the bytes, hex: ties an answer to exactly this query."""
        return hashlib.sha256(self.data).hexdigest()

    @classmethod
    def from_bytes(cls, data: bytes) -> Query:
        """The query whose `data` this is.

        Raises:
            QueryRefusedError: the bytes are malformed or a value is out of range.
        """

        def parse() -> Query:
            header, tensors = unpack(data)
            _check_kind(header, "query", {"run_id", "server_round", "statistic", "arguments", "plan", "batch"})
            plan = None if header["plan"] is None else PrivacyPlan.from_json(header["plan"])
            batch = None
            if header["batch"] is not None:
                counts, seed = header["batch"]
                batch = (tuple(counts), seed)
            return cls(
                header["run_id"],
                header["server_round"],
                header["statistic"],
                _json_object("arguments", header["arguments"]),
                tensors,
                plan,
                batch,
            )

        return _or_refuse("query", parse)


@dataclass(frozen=True, eq=False)
class Message:
    """A client's answer to one query.

    Args:
        client_id: who answers.
        message_id: run and round, as in the client's ledger.
        query_digest: digest of the query that is answered.
        values: float32 [groups, dimension]: noisy sums over b with privacy, plain sums by group without.
        counts: int64 [groups], examples in each sum; only without privacy, None with it.
    """

    client_id: str
    message_id: str
    query_digest: str
    values: Tensor
    counts: Tensor | None = None

    @cached_property
    def data(self) -> bytes:
        """The message as bytes; their number depends on the query and the client's name alone."""
        header = {
            "kind": "message",
            "client_id": self.client_id,
            "message_id": self.message_id,
            "query_digest": self.query_digest,
        }
        return pack(header, {"values": self.values, **({} if self.counts is None else {"counts": self.counts})})

    @classmethod
    def from_bytes(cls, data: bytes) -> Message:
        """The message whose `data` this is.

        Raises:
            QueryRefusedError: the bytes are malformed, or the values are not finite float32 of two dimensions.
        """

        def parse() -> Message:
            header, tensors = unpack(data)
            _check_kind(header, "message", {"client_id", "message_id", "query_digest"})
            values, counts = tensors.pop("values"), tensors.pop("counts", None)
            if tensors or values.dtype != torch.float32 or values.ndim != 2 or not bool(torch.isfinite(values).all()):
                raise ValueError("values must be finite float32 [groups, dimension], and no other tensors")
            if counts is not None and (counts.dtype != torch.int64 or counts.shape != values.shape[:1]):
                raise ValueError("counts must be int64 [groups]")
            return cls(
                require_identifier("client_id", header["client_id"]),
                _require_text("message_id", header["message_id"], NAME_LENGTH),
                _require_text("query_digest", header["query_digest"], NAME_LENGTH),
                values,
                counts,
            )

        return _or_refuse("message", parse)


@dataclass(frozen=True)
class Refusal:
    """A client declines.  Only a fixed code crosses the wire: an exception's text could carry data (A7)."""

    code: str  # "budget", "refused" or "failed"

    def to_bytes(self) -> bytes:
        """JSON, ASCII."""
        return to_json({"kind": "refusal", "code": self.code}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Refusal | None:
        """The refusal, or None if the bytes are something else.  A code that is none of ours counts as "failed"."""
        if not data.startswith(b"{") or len(data) > CONTROL_BYTES:
            return None
        try:
            record = json.loads(data)
        except (ValueError, RecursionError):
            return None
        if record.get("kind") != "refusal":
            return None
        return cls(record["code"] if record.get("code") in ("budget", "refused") else "failed")


Reply: TypeAlias = Message | Refusal


def _check_kind(record: Mapping[str, Any], kind: str, names: set[str]) -> None:
    if record.get("kind") != kind or set(record) != names | {"kind"}:
        raise ValueError(f"not a {kind} with the fields {sorted(names)}")


def _json_of_kind(data: bytes, kind: str, names: set[str]) -> dict[str, Any]:
    if len(data) > CONTROL_BYTES:
        raise ValueError(f"{len(data)} bytes, more than {CONTROL_BYTES}")
    record = json.loads(data)
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    _check_kind(record, kind, names)
    return record


def _or_refuse(what: str, parse: Callable[[], Parsed]) -> Parsed:
    try:
        return parse()
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, PrivateDistDDError) as error:
        raise QueryRefusedError(
            f"a {what} that cannot be read ({error})", f"the bytes of a {what} of this library", "Ask again."
        ) from error
