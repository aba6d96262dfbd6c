"""A site behind a socket: this user only, one request at a time, and nothing out but what the endpoint let out."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from answers import MakeImages, query
from daemons import hostile_frames, serving

from private_distdd import __version__
from private_distdd.engines.relay import relay
from private_distdd.errors import ConfigurationError
from private_distdd.privacy.ledger import Ledger, parse
from private_distdd.site import daemon as daemon_module
from private_distdd.site.client import Client
from private_distdd.site.daemon import Daemon
from private_distdd.wire.engine import ASK, ENROL, LEDGER
from private_distdd.wire.frame import (
    PING,
    REQUEST_HEADER,
    Presence,
    request_frame,
    response_frame,
    response_of,
)
from private_distdd.wire.message import Message
from private_distdd.wire.refusal import CODES, Refusal
from private_distdd.wire.reply import Reply
from private_distdd.wire.run import Enrolment, Run


@pytest.fixture
def site(make_images: MakeImages, tmp_path: Path) -> Iterator[Client]:
    with Ledger(tmp_path / "ledger.jsonl", client_id="clinic") as ledger:
        yield Client("clinic", make_images(12), ledger)


@pytest.fixture
def path(site: Client, tmp_path: Path) -> Iterator[Path]:
    with serving(tmp_path, site) as sockets:
        yield sockets["clinic"]


def asked(path: Path, operation: str, request: bytes = b"", expiry: int = 0) -> bytes | None:
    return response_of(relay(path, request_frame(operation, request, expiry), seconds=60))


def reply(path: Path, operation: str, request: bytes = b"", expiry: int = 0) -> Reply:
    response = asked(path, operation, request, expiry)
    assert response is not None
    return Reply.from_bytes(response)


def test_it_answers_as_the_endpoint_does(path: Path, run: Run, site: Client) -> None:
    assert Presence.from_bytes(asked(path, PING) or b"") == Presence("clinic", __version__)
    assert Enrolment.from_bytes(reply(path, ENROL, run.to_bytes()).answer) == Enrolment("clinic", site.key.public_key)
    answer = reply(path, ASK, query(run).data)
    assert Message.from_bytes(answer.answer).client_id == "clinic"
    assert answer.ledger == site.ledger.to_bytes()
    assert reply(path, ASK, query(run).data) == answer  # the same bytes, for nothing
    assert reply(path, LEDGER).ledger == answer.ledger
    assert parse(answer.ledger).count("run-1:") == 1


def test_what_comes_too_late_is_not_answered_and_not_charged(path: Path, run: Run, site: Client) -> None:
    reply(path, ENROL, run.to_bytes())
    before = site.ledger.to_bytes()
    assert asked(path, ASK, query(run).data, expiry=int(time.time()) - 1) is None
    assert site.ledger.to_bytes() == before
    assert Message.from_bytes(reply(path, ASK, query(run).data, expiry=int(time.time()) + 60).answer)


def test_garbled_requests_are_not_answered(path: Path, run: Run) -> None:
    frame = bytearray(request_frame(ENROL, run.to_bytes()))
    frame[-1] ^= 1
    assert response_of(relay(path, bytes(frame), seconds=60)) is None
    assert relay(path, b"GET / HTTP/1.1\r\n".ljust(REQUEST_HEADER, b" "), seconds=60) == response_frame(b"")


def whatever_comes(path: Path, data: bytes) -> bytes:
    """All bytes that this gets, where the site does not hang up first on what it need not read to its end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection, contextlib.suppress(ConnectionError):
        connection.settimeout(60)
        connection.connect(str(path))
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))
    return b""


def test_ten_thousand_hostile_requests_get_nothing_and_change_nothing(
    path: Path, site: Client, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "private_distdd_client.clinic")  # it has a line for each
    before, seen = site.ledger.to_bytes(), set[str | bytes]()
    for frame in hostile_frames(query(run).data, 10_000):
        data = whatever_comes(path, frame)
        response = response_of(data) if data else None
        if response is None:
            seen.add("nothing")
        elif response.startswith(b"{"):
            seen.add(Presence.from_bytes(response).client_id)
        else:
            found = Reply.from_bytes(response)
            assert found.ledger == before
            refusal = Refusal.from_bytes(found.answer)
            seen.add(found.answer if refusal is None else refusal.code)
    assert site.ledger.to_bytes() == before
    # A ping's presence, and the ledger alone where only that was asked for.
    assert seen <= {"nothing", "clinic", b"", *CODES}
    assert {"nothing", "clinic", b"", "refused", "not_enrolled"} <= seen
    assert Enrolment.from_bytes(reply(path, ENROL, run.to_bytes()).answer).client_id == "clinic"


def test_another_user_is_hung_up_on(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(daemon_module, "_peer", lambda _: os.getuid() + 1)
    with pytest.raises(OSError, match=r"hung up|reset|Broken pipe"):
        asked(path, PING)
    assert f"hung up on user {os.getuid() + 1}" in caplog.text


def test_it_knows_who_connects() -> None:
    here, there = socket.socketpair(socket.AF_UNIX)
    with here, there:
        assert daemon_module._peer(here) == os.getuid()


def test_a_peer_that_dawdles_blocks_nobody_for_long(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon_module, "SECONDS", 0.1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as slow:
        slow.connect(str(path))
        slow.sendall(request_frame(ENROL, b"x" * 100)[:-1])  # the last byte never comes
        assert Presence.from_bytes(asked(path, PING) or b"").client_id == "clinic"


def test_a_request_that_cannot_be_served_does_not_end_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> bytes:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(daemon_module, "request_header", fail)
        with pytest.raises(OSError, match=r"hung up|reset"):
            asked(path, PING)
    assert asked(path, PING) is not None
    assert "a request failed" in caplog.text


def test_the_socket_is_its_owner_s_and_goes_with_it(site: Client, tmp_path: Path) -> None:
    with serving(tmp_path, site) as sockets:
        assert os.stat(sockets["clinic"]).st_mode & 0o777 == 0o600
        with pytest.raises(ConfigurationError, match="somebody listens"):
            Daemon(site, sockets["clinic"])
        assert asked(sockets["clinic"], PING) is not None
    assert not sockets["clinic"].exists()


def test_the_socket_of_a_killed_daemon_is_replaced(site: Client, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(tmp_path / "clinic.sock"))
    with serving(tmp_path, site) as sockets:
        assert asked(sockets["clinic"], PING) is not None


def test_other_files_are_not(site: Client, tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_bytes(b"precious")
    with pytest.raises(ConfigurationError, match="which is no socket"):
        Daemon(site, tmp_path / "data.npz")
    assert (tmp_path / "data.npz").read_bytes() == b"precious"


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o777, 0o701])
def test_a_folder_that_others_may_enter_is_refused(site: Client, tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod 700"):
        Daemon(site, folder / "site.sock")
    assert list(folder.iterdir()) == []


def test_no_folder_and_too_long_a_path_are_refused(site: Client, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="a folder that exists"):
        Daemon(site, tmp_path / "none" / "site.sock")
    with pytest.raises(ConfigurationError, match="at most 107 bytes"):
        Daemon(site, tmp_path / ("x" * 107))


def test_a_system_that_does_not_say_who_connects_is_refused(
    site: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(socket, "SO_PEERCRED")
    with pytest.raises(ConfigurationError, match="Linux"):
        Daemon(site, tmp_path / "site.sock")


def test_its_log_has_sizes_and_no_contents(path: Path, run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "private_distdd_client.clinic")
    reply(path, ENROL, run.to_bytes())
    asked(path, PING)  # the line of the request before is written by now
    assert "enrol: " in caplog.text
    assert "bytes for" in caplog.text
