"""A client's refusal: a fixed code, and nothing else."""

from __future__ import annotations

import json
from dataclasses import dataclass

from private_distdd.encoding import to_json
from private_distdd.limits import CONTROL_BYTES

CODES = ("budget", "refused", "not_enrolled", "waiting", "failed")
"""The budget cannot pay; refused for another reason; enrol first; the owner has not agreed yet; the computation failed,
and its charge is used up."""


@dataclass(frozen=True)
class Refusal:
    """A client declines.  Only a fixed code crosses the wire: an exception's text could carry data (A7)."""

    code: str  # one of CODES

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
        return cls(record["code"] if record.get("code") in CODES else "failed")
