"""The SuperNode that runs nobody's code: what it carries, what it refuses, and that nothing else leaves."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr")  # it needs Python 3.11

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from daemons import serving
from flwr.app import Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import RunNotRunningException

from private_distdd.data.dataset import ImageDataset
from private_distdd.engines import fleet
from private_distdd.engines.fleet import carry
from private_distdd.engines.forwarder import frame_of, record_of
from private_distdd.errors import ConfigurationError
from private_distdd.site.client import Client
from private_distdd.wire.frame import PING, Presence, request_frame, response_frame, response_of

pytestmark = pytest.mark.usefixtures("flower_task", "signals")


@pytest.fixture
def signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return write_key(tmp_path / "node.key", ec.generate_private_key(ec.SECP384R1()))


def write_key(path: Path, key: Any) -> Path:
    form = serialization.PrivateFormat.OpenSSH
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return path


class SuperLink:
    """What Flower's connection would offer, out of messages that wait; then Ctrl-C.

    Args:
        messages: a message, or what is raised where one would be received.
        broken: objects cannot be fetched.
    """

    def __init__(self, messages: list[Message | BaseException | None], broken: bool = False) -> None:
        self._messages, self._broken = messages, broken
        self._objects: dict[str, bytes] = {}
        self.confirmed, self.replies, self.pushed = list[str](), list[Any](), dict[str, bytes]()

    @contextlib.contextmanager
    def connection(self, *_: object) -> Iterator[tuple[Any, ...]]:
        yield 7, self.receive, self.send, None, None, self.pull, self.push, self.confirm

    def receive(self) -> Any:
        if not self._messages:
            raise KeyboardInterrupt
        message = self._messages.pop(0)
        if message is None:
            return None
        if isinstance(message, BaseException):
            raise message
        message.metadata.__dict__["_message_id"] = message.object_id
        self._objects |= {name: part.deflate() for name, part in get_all_nested_objects(message).items()}
        return message, get_object_tree(message)

    def pull(self, run: int, name: str) -> bytes:
        if self._broken:
            raise OSError("secret path /data")
        return self._objects[name]

    def confirm(self, run: int, name: str) -> None:
        self.confirmed.append(name)

    def send(self, reply: Message, tree: Any, seconds: float) -> tuple[set[str], str]:
        self.replies.append(reply)
        return {part.object_id for part in nested(tree)}, "session"

    def push(self, run: int, session: str, name: str, content: bytes) -> None:
        self.pushed[name] = content


def nested(tree: Any) -> Iterator[Any]:
    yield tree
    for child in tree.children:
        yield from nested(child)


def message(content: RecordDict) -> Message:
    return Message(content, 7, "query")


def carried(superlink: SuperLink, socket: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until its messages have run out."""
    monkeypatch.setattr("flwr.supernode.fleet_http_connection.http_request_response", superlink.connection)
    monkeypatch.setattr(fleet, "POLL", 0.0)
    with pytest.raises(KeyboardInterrupt):
        carry("127.0.0.1:1", str(socket), key, key)


@pytest.fixture
def socket(make_images: Callable[..., ImageDataset], tmp_path: Path) -> Iterator[Path]:
    with serving(tmp_path, Client("clinic", make_images(6))) as found:
        yield found["clinic"]


def test_a_frame_goes_to_the_site_and_its_response_comes_back_whole(
    socket: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = message(record_of(request_frame(PING, b"")))
    superlink = SuperLink([None, asked, RunNotRunningException()])
    carried(superlink, socket, key, monkeypatch)
    (reply,) = superlink.replies
    assert reply.metadata.reply_to_message_id == asked.metadata.message_id == superlink.confirmed[0]
    arrived = inflate_object_from_contents(reply.metadata.message_id, superlink.pushed)
    assert Presence.from_bytes(response_of(frame_of(arrived)) or b"").client_id == "clinic"


def test_what_is_no_frame_gets_an_empty_response(socket: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    superlink = SuperLink([message(RecordDict()), message(record_of(b"\xff" * 99))])
    carried(superlink, socket, key, monkeypatch)
    assert [frame_of(reply) for reply in superlink.replies] == [response_frame(b"")] * 2


def test_a_message_that_cannot_be_fetched_is_lost_and_its_error_stays_here(
    socket: Path, key: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    superlink = SuperLink([message(record_of(request_frame(PING, b""))), None], broken=True)
    with caplog.at_level(logging.WARNING):
        carried(superlink, socket, key, monkeypatch)
    assert superlink.replies == []
    assert "a message of run 1 was lost" in caplog.text


def test_any_other_version_of_flower_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.require_flower()
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "1.42.1")
    with pytest.raises(ConfigurationError, match=r"Flower 1\.42\.1; allowed: 1\.42\.0"):
        fleet.require_flower()


def test_keys_and_certificates_that_are_none_are_refused(tmp_path: Path, key: Path) -> None:
    other = write_key(tmp_path / "other.key", ed25519.Ed25519PrivateKey.generate())
    for wrong in (tmp_path / "none.key", other, Path(__file__)):
        with pytest.raises(ConfigurationError, match="an EC private key"):
            carry("127.0.0.1:1", "site.sock", wrong, key)
    with pytest.raises(ConfigurationError, match="certificates"):
        carry("127.0.0.1:1", "site.sock", key, tmp_path / "none.pem")


def test_its_process_has_no_torch() -> None:
    look = (
        "import sys, private_distdd.cli, private_distdd.engines.fleet\n"
        "import flwr.supernode.fleet_http_connection\n"
        "seen = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(seen & {'torch', 'torchvision', 'opacus', 'sklearn'}))"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
