"""Frames: what was sent is what is read, and all else is refused before it takes memory."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from private_distdd.errors import QueryRefusedError
from private_distdd.limits import CONTROL_BYTES
from private_distdd.wire.engine import ASK, ENROL, LEDGER
from private_distdd.wire.frame import (
    PING,
    REQUEST_BYTES,
    REQUEST_HEADER,
    RESPONSE_BYTES,
    RESPONSE_HEADER,
    Presence,
    request_frame,
    request_header,
    response_frame,
    response_header,
    response_of,
)


@given(st.sampled_from([ENROL, ASK, LEDGER]), st.binary(max_size=200), st.integers(0, 2**64 - 1))
def test_a_request_is_read_as_it_was_written(operation: str, request: bytes, expiry: int) -> None:
    frame = request_frame(operation, request, expiry)
    header = request_header(frame[:REQUEST_HEADER])
    assert (header.operation, header.expiry) == (operation, expiry)
    assert header.check(frame[REQUEST_HEADER:]) == request


@given(st.binary(max_size=200))
def test_a_response_is_read_as_it_was_written(response: bytes) -> None:
    assert response_of(response_frame(response)) == (response or None)


@given(st.binary(min_size=1, max_size=100), st.data())
def test_one_flipped_bit_is_found(response: bytes, data: st.DataObject) -> None:
    frame = bytearray(response_frame(response))
    bit = data.draw(st.integers(0, 8 * len(frame) - 1))
    frame[bit // 8] ^= 1 << bit % 8
    with pytest.raises(QueryRefusedError):
        response_of(bytes(frame))


@given(st.binary(max_size=100))
def test_anything_else_is_refused(noise: bytes) -> None:
    for read in (request_header, response_header):
        with pytest.raises(QueryRefusedError, match="one of this version"):
            read(noise)


@pytest.mark.parametrize("operation", REQUEST_BYTES)
def test_what_is_too_long_is_refused_by_its_header(operation: str) -> None:
    header = bytearray(request_frame(operation, b"")[:REQUEST_HEADER])
    struct.pack_into(">Q", header, 13, REQUEST_BYTES[operation])
    request_header(bytes(header))
    struct.pack_into(">Q", header, 13, REQUEST_BYTES[operation] + 1)
    with pytest.raises(QueryRefusedError, match="at most"):
        request_header(bytes(header))


def test_a_response_that_is_too_long_is_refused_by_its_header() -> None:
    header = bytearray(response_frame(b"")[:RESPONSE_HEADER])
    struct.pack_into(">Q", header, 4, RESPONSE_BYTES + 1)
    with pytest.raises(QueryRefusedError):
        response_header(bytes(header))


def test_a_presence_is_read_as_it_was_written() -> None:
    assert Presence.from_bytes(Presence("a", "1.0").to_bytes()) == Presence("a", "1.0")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"1",
        b'{"kind":"site"}',
        b'{"client_id":"a b","kind":"site","version":"1"}',
        b'{"client_id":"a","kind":"site","version":1}',
        b'{"client_id":"a","kind":"site","version":"' + b"1" * 65 + b'"}',
        b'{"client_id":"a","kind":"enrolment","version":"1"}',
        b'{"client_id":"a","kind":"site","version":"' + b"1" * CONTROL_BYTES + b'"}',
    ],
)
def test_what_is_no_presence_is_refused(data: bytes) -> None:
    with pytest.raises(QueryRefusedError):
        Presence.from_bytes(data)


def test_a_ping_has_no_bytes_of_its_own() -> None:
    assert len(request_frame(PING, b"")) == REQUEST_HEADER
    with pytest.raises(QueryRefusedError):
        request_header(request_frame(PING, b"x")[:REQUEST_HEADER])
