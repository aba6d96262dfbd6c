"""What the server asks in one round: registered names, arguments and tensors, never code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from private_distdd.encoding import sha256
from private_distdd.errors import QueryRefusedError
from private_distdd.limits import NAME_LENGTH
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.storage import pack, unpack
from private_distdd.validate import require_count, require_identifier
from private_distdd.wire.parsing import check_kind, json_object, or_refuse, require_text

_ROUNDS = 999_999_999  # a ledger's message ids have at most nine digits for the round
_INT64 = (1 << 63) - 1


def message_id(run_id: str, server_round: int) -> str:
    """The name of one message in a client's ledger; of constant length within a run."""
    return f"{run_id}:{server_round:06d}"


@dataclass(frozen=True, eq=False)
class Query:
    """What the server asks in one round: a registered question, its public arguments and tensors.  Never code.

    Args:
        run_id: the run the client enrolled in.
        server_round: 0, 1, ... 999,999,999; one query a client and round.
        question: name of a registered question ("class_gradients").
        arguments: JSON-able arguments of the question (model specification, granularity).
        tensors: tensors of the question (network weights).
        plan: the mechanism's constants again, which must equal what the client pinned; None without privacy.
        batch: without privacy only: how many examples of each class to draw, and the public seed of the draw.

    Raises:
        QueryRefusedError, ConfigurationError: a value is out of range.
    """

    run_id: str
    server_round: int
    question: str
    arguments: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    plan: PrivacyPlan | None
    batch: tuple[tuple[int, ...], int] | None = None

    def __post_init__(self) -> None:
        require_identifier("run_id", self.run_id)
        require_count("server_round", self.server_round, "Rounds are numbered from 0.", at_least=0, at_most=_ROUNDS)
        require_text("question", self.question, NAME_LENGTH)
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
            "question": self.question,
            "arguments": dict(self.arguments),
            "plan": None if self.plan is None else self.plan.to_json(),
            "batch": self.batch,
        }
        return pack(header, self.tensors)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the bytes, hex: ties an answer to exactly this query."""
        return sha256(self.data)

    @classmethod
    def from_bytes(cls, data: bytes) -> Query:
        """The query whose `data` this is.

        Raises:
            QueryRefusedError: the bytes are malformed or a value is out of range.
        """

        def parse() -> Query:
            header, tensors = unpack(data)
            check_kind(header, "query", {"run_id", "server_round", "question", "arguments", "plan", "batch"})
            plan = None if header["plan"] is None else PrivacyPlan.from_json(header["plan"])
            batch = None
            if header["batch"] is not None:
                counts, seed = header["batch"]
                batch = (tuple(counts), seed)
            return cls(
                header["run_id"],
                header["server_round"],
                header["question"],
                json_object("arguments", header["arguments"]),
                tensors,
                plan,
                batch,
            )

        found = or_refuse("query", parse)
        vars(found)["data"] = data  # its digest needs no second copy of all weights
        return found
