"""One request to a site and its response, as they travel: through a site's UNIX socket, or inside another carrier.

    request:   4 bytes magic and version, 1 byte operation, 8 bytes expiry, 8 bytes length, 32 bytes SHA-256, the rest
    response:  4 bytes magic and version, 8 bytes length, 32 bytes SHA-256, the rest

Numbers are big-endian.  The hash finds what was garbled on its way; it is no signature.  No torch in here: whoever
carries frames needs none.
"""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple

from private_distdd.encoding import to_json
from private_distdd.errors import QueryRefusedError
from private_distdd.limits import CONTROL_BYTES, HEADER_BYTES, LEDGER_BYTES, TRAINED_BYTES
from private_distdd.validate import require_identifier
from private_distdd.wire.engine import ASK, ENROL, LEDGER
from private_distdd.wire.parsing import json_of_kind, or_refuse, require_text

PING = "ping"
"""Beside an `Engine`'s operations: nothing, for a `Presence`."""

_TENSORS = HEADER_BYTES + TRAINED_BYTES  # a query or a message: its header, and all weights or values together
REQUEST_BYTES = {ENROL: CONTROL_BYTES, ASK: _TENSORS, LEDGER: CONTROL_BYTES, PING: 0}
"""The operations, each at its number on the wire, and the longest request of each."""
RESPONSE_BYTES = _TENSORS + LEDGER_BYTES

VERSION_LENGTH = 64  # characters

_MAGIC = b"pdd\x01"
_OPERATIONS = tuple(REQUEST_BYTES)
_REQUEST, _RESPONSE = struct.Struct(">4sBQQ32s"), struct.Struct(">4sQ32s")
REQUEST_HEADER, RESPONSE_HEADER = _REQUEST.size, _RESPONSE.size


class Header(NamedTuple):
    """What goes before a request's or a response's own bytes.

    Args:
        length: how many these are.
        digest: their SHA-256.
        operation: one of `REQUEST_BYTES`; "" for a response.
        expiry: seconds since 1970 after which nobody waits for the response; 0 is never.
    """

    length: int
    digest: bytes
    operation: str = ""
    expiry: int = 0

    def check(self, data: bytes) -> bytes:
        """The bytes that this header is about.

        Raises:
            QueryRefusedError: they are others.
        """
        if len(data) != self.length or hashlib.sha256(data).digest() != self.digest:
            raise QueryRefusedError(f"{len(data)} bytes", f"the {self.length} that were sent", "Send them again.")
        return data


def request_frame(operation: str, request: bytes, expiry: int = 0) -> bytes:
    """A request: see `Header` for its parts."""
    digest = hashlib.sha256(request).digest()
    return _REQUEST.pack(_MAGIC, _OPERATIONS.index(operation), expiry, len(request), digest) + request


def response_frame(response: bytes) -> bytes:
    """A response; empty where the site has none to give."""
    return _RESPONSE.pack(_MAGIC, len(response), hashlib.sha256(response).digest()) + response


def request_header(data: bytes) -> Header:
    """What the first `REQUEST_HEADER` bytes of a request say.

    Raises:
        QueryRefusedError: they are no header of this version, or announce more than `REQUEST_BYTES`.
    """
    if len(data) != REQUEST_HEADER:
        data = bytes(REQUEST_HEADER)
    magic, number, expiry, length, digest = _REQUEST.unpack(data)
    if magic != _MAGIC or number >= len(_OPERATIONS):
        raise QueryRefusedError(f"a request that begins with {data[:8]!r}", "one of this version", "Ask in frames.")
    operation = _OPERATIONS[number]
    if length > REQUEST_BYTES[operation]:
        raise QueryRefusedError(
            f"a request of {length} bytes to {operation!r}", f"at most {REQUEST_BYTES[operation]}", "Ask for less."
        )
    return Header(length, digest, operation, expiry)


def response_header(data: bytes) -> Header:
    """What the first `RESPONSE_HEADER` bytes of a response say.

    Raises:
        QueryRefusedError: they are no header of this version, or announce more than `RESPONSE_BYTES`.
    """
    if len(data) != RESPONSE_HEADER:
        data = bytes(RESPONSE_HEADER)
    magic, length, digest = _RESPONSE.unpack(data)
    if magic != _MAGIC or length > RESPONSE_BYTES:
        raise QueryRefusedError(f"a response that begins with {data[:8]!r}", "one of this version", "Ask again.")
    return Header(length, digest)


def response_of(frame: bytes) -> bytes | None:
    """A whole response's own bytes; None where it has none.

    Raises:
        QueryRefusedError: the frame is garbled.
    """
    return response_header(frame[:RESPONSE_HEADER]).check(frame[RESPONSE_HEADER:]) or None


class Presence(NamedTuple):
    """A site is there: the response to a ping.  All of it is public.

    Args:
        client_id: whose data it holds.
        version: of the library that it runs.
    """

    client_id: str
    version: str

    def to_bytes(self) -> bytes:
        """JSON, ASCII."""
        return to_json({"kind": "site", "client_id": self.client_id, "version": self.version}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Presence:
        """The presence that `to_bytes` wrote.

        Raises:
            QueryRefusedError: the bytes are something else.
        """

        def parse() -> Presence:
            record = json_of_kind(data, "site", {"client_id", "version"})
            version = require_text("version", record["version"], VERSION_LENGTH)
            return cls(require_identifier("client_id", record["client_id"]), version)

        return or_refuse("site's presence", parse)
