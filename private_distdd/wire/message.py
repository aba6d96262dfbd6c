"""A client's answer to one query."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from private_distdd.limits import NAME_LENGTH
from private_distdd.storage import pack, unpack
from private_distdd.validate import require_identifier
from private_distdd.wire.packing import PLAIN, Packing, require_format
from private_distdd.wire.parsing import check_kind, or_refuse, require_text


@dataclass(frozen=True, eq=False)
class Message:
    """A client's answer to one query.

    Args:
        client_id: who answers.
        message_id: run and round, as in the client's ledger.
        query_digest: digest of the query that is answered.
        values: float32 [groups, dimension]: noisy sums over b with privacy, plain sums by group without.
        counts: int64 [groups], examples in each sum; only without privacy, None with it.
        packing: of the values in `data`; None sends them as they are.
    """

    client_id: str
    message_id: str
    query_digest: str
    values: Tensor
    counts: Tensor | None = None
    packing: Packing | None = None

    @cached_property
    def data(self) -> bytes:
        """The message as bytes; their number depends on the query and the client's name alone."""
        header: dict[str, Any] = {
            "kind": "message",
            "client_id": self.client_id,
            "message_id": self.message_id,
            "query_digest": self.query_digest,
        }
        values = self.values
        if self.packing is not None:
            header["packing"] = {**asdict(self.packing), "columns": values.shape[1]}
            values = self.packing.pack(values)
        return pack(header, {"values": values, **({} if self.counts is None else {"counts": self.counts})})

    @classmethod
    def from_bytes(cls, data: bytes) -> Message:
        """The message whose `data` this is.

        Raises:
            QueryRefusedError: the bytes are malformed, or the values are not finite float32 of two dimensions.
        """

        def parse() -> Message:
            header, tensors = unpack(data)
            check_kind(header, "message", {"client_id", "message_id", "query_digest"}, {"packing"})
            values, counts, packing = tensors.pop("values"), tensors.pop("counts", None), None
            if "packing" in header:
                packing, columns = _packing(**header["packing"])
                values = packing.unpack(values, columns)
            if tensors or values.dtype != torch.float32 or values.ndim != 2 or not bool(torch.isfinite(values).all()):
                raise ValueError("values must be finite float32 [groups, dimension], and no other tensors")
            if counts is not None and (counts.dtype != torch.int64 or counts.shape != values.shape[:1]):
                raise ValueError("counts must be int64 [groups]")
            found = cls(
                require_identifier("client_id", header["client_id"]),
                require_text("message_id", header["message_id"], NAME_LENGTH),
                require_text("query_digest", header["query_digest"], NAME_LENGTH),
                values,
                counts,
                packing,
            )
            vars(found)["data"] = data  # a stored message leaves with its own bytes, whatever rounding made of them
            return found

        return or_refuse("message", parse)


def _packing(form: str, unit: float, columns: int) -> tuple[Packing, int]:
    """A message's own account of its packing; whether it is the run's is for the server to see."""
    require_format(form, private=True)
    if form == PLAIN or not isinstance(unit, float) or not 0 < unit < math.inf or type(columns) is not int:
        raise ValueError("no packing")
    return Packing(form, unit), columns


def stack(messages: Sequence[Message]) -> tuple[Tensor, Tensor | None]:
    """Messages as one tensor, float32 [clients, groups, dimension], and counts int64 [clients, groups], if any."""
    counts = [message.counts for message in messages if message.counts is not None]
    return torch.stack([message.values for message in messages]), torch.stack(counts) if counts else None
