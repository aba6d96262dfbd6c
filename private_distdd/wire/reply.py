"""What comes back from a site: an answer, and the client's ledger beside it."""

from __future__ import annotations

from dataclasses import dataclass

from private_distdd.errors import QueryRefusedError
from private_distdd.limits import LEDGER_BYTES

_LENGTH = 8  # bytes that say how long the answer is


@dataclass(frozen=True)
class Reply:
    """A client's bytes.

    Args:
        answer: an `Enrolment`, a `Message`, a `Signed` or a `Refusal`; empty where only the ledger was asked for.
        ledger: the ledger as it stood when the answer was ready, with every charge up to it; empty if unreadable.
    """

    answer: bytes
    ledger: bytes

    def to_bytes(self) -> bytes:
        """The answer's length, the answer, the ledger."""
        return len(self.answer).to_bytes(_LENGTH, "big") + self.answer + self.ledger

    @classmethod
    def from_bytes(cls, data: bytes) -> Reply:
        """The reply that `to_bytes` wrote.

        Raises:
            QueryRefusedError: the bytes are cut, hold a longer ledger than anybody may hand over, or are no bytes.
        """
        if not isinstance(data, bytes):  # an engine is anybody's, and a list of numbers can be sliced, too
            raise QueryRefusedError(f"a reply of type {type(data).__name__}", "bytes", "Ask again.")
        length = int.from_bytes(data[:_LENGTH], "big")
        rest = len(data) - _LENGTH - length
        if len(data) < _LENGTH or not 0 <= rest <= LEDGER_BYTES:
            raise QueryRefusedError(
                f"a reply of {len(data)} bytes", f"an answer, and a ledger of at most {LEDGER_BYTES}", "Ask again."
            )
        return cls(data[_LENGTH : _LENGTH + length], data[_LENGTH + length :])
