"""What a SuperNode runs beside a site: bytes through, nothing else, and no torch."""

from __future__ import annotations

import json
import logging
import socket as sockets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr")  # it needs Python 3.11

from answers import PLAN, query
from daemons import hostile_frames, serving
from flwr.app import ConfigRecord, Context, Message, RecordDict

from private_distdd.cli import main
from private_distdd.data.dataset import ImageDataset
from private_distdd.engines.forwarder import forward, frame_of, record_of
from private_distdd.site.client import Client
from private_distdd.wire.engine import LEDGER
from private_distdd.wire.frame import PING, Presence, request_frame, response_frame, response_of
from private_distdd.wire.refusal import CODES, Refusal
from private_distdd.wire.reply import Reply
from private_distdd.wire.run import Run

MakeImages = Callable[..., ImageDataset]
pytestmark = pytest.mark.usefixtures("flower_task")


@pytest.fixture
def socket(make_images: MakeImages, tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "site"
    home.mkdir(mode=0o700)
    with serving(home, Client("clinic", make_images(6))) as found:
        yield found["clinic"]


def context(**node_config: Any) -> Context:
    return Context(run_id=1, node_id=1, node_config=node_config, state=RecordDict(), run_config={})


def message(content: RecordDict) -> Message:
    return Message(content, 1, "query")


def test_a_request_reaches_the_site_and_its_response_comes_back(socket: Path) -> None:
    reply = forward(message(record_of(request_frame(PING, b""))), context(socket=str(socket)))
    assert Presence.from_bytes(response_of(frame_of(reply)) or b"").client_id == "clinic"
    reply = forward(message(record_of(request_frame(LEDGER, b""))), context(socket=str(socket), seconds=60))
    assert Reply.from_bytes(response_of(frame_of(reply)) or b"").ledger


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"other": ConfigRecord({"frame": request_frame(PING, b"")})}),
        RecordDict({"private_distdd": ConfigRecord({"frame": "ping"})}),
        record_of(b""),
        record_of(b"\xff" * 100),
        record_of(request_frame(PING, b"")[:-1]),
        record_of(request_frame(LEDGER, b"x" * 9)[:-1]),
    ],
    ids=["nothing", "another record", "a text", "no bytes", "no header", "a cut header", "a cut request"],
)
def test_what_is_no_request_gets_an_empty_response(socket: Path, content: RecordDict) -> None:
    assert frame_of(forward(message(content), context(socket=str(socket), seconds=5))) == response_frame(b"")


def test_a_hostile_server_app_gets_refusals_and_changes_nothing(
    make_images: MakeImages, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    client, seen = Client("clinic", make_images(6)), set[str]()
    before = client.ledger.to_bytes()
    with serving(tmp_path, client) as paths:
        for frame in hostile_frames(query(Run("run-1", make_images(1).info, PLAN)).data, 10_000):
            response = response_of(frame_of(forward(message(record_of(frame)), context(socket=str(paths["clinic"])))))
            if response is None or response.startswith(b"{"):
                seen.add("nothing" if response is None else Presence.from_bytes(response).client_id)
                continue
            reply = Reply.from_bytes(response)
            assert reply.ledger == before
            refusal = Refusal.from_bytes(reply.answer)
            seen.add("the ledger alone" if refusal is None and not reply.answer else refusal.code if refusal else "?")
    assert client.ledger.to_bytes() == before
    assert {"nothing", "refused", "not_enrolled"} <= seen <= {"nothing", "clinic", "the ledger alone", *CODES}


@pytest.mark.parametrize("config", [{}, {"socket": 5}, {"socket": "/no/such.sock"}, {"seconds": "x"}, {"socket": "\0"}])
def test_what_fails_here_is_told_here(config: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    reply = forward(message(record_of(request_frame(PING, b""))), context(**config))
    assert frame_of(reply) == response_frame(b"")
    assert reply.has_content()
    assert "the site gave no answer" in caplog.text


def test_who_is_at_work_is_waited_for_until_the_request_expires(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with sockets.socket(sockets.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent.sock"))
        silent.listen()
        for frame, config in [
            (request_frame(PING, b""), {"seconds": 0.1}),
            (request_frame(PING, b"", expiry=int(time.time()) - 5), {}),
            (request_frame(PING, b"", expiry=int(time.time()) - 5), {"seconds": 1000.0}),
        ]:
            with caplog.at_level(logging.WARNING):
                reply = forward(message(record_of(frame)), context(socket=str(tmp_path / "silent.sock"), **config))
            assert frame_of(reply) == response_frame(b"")
            assert "TimeoutError" in caplog.text
            caplog.clear()


LOOK = """
import importlib.util, json, os, sys
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from private_distdd.engines.forwarder import frame_of, record_of
from private_distdd.wire.frame import PING, request_frame
TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
opened = []
sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
found = importlib.util.spec_from_file_location("client_app", sys.argv[1])
module = importlib.util.module_from_spec(found)
found.loader.exec_module(module)
context = Context(run_id=1, node_id=1, node_config={"socket": sys.argv[2]}, state=RecordDict(), run_config={})
reply = module.app(Message(record_of(request_frame(PING, b"")), 1, "query"), context)
print(json.dumps({"frame": frame_of(reply).hex(), "modules": sorted(sys.modules), "opened": opened,
    "held": [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if name.isdigit()
        and os.path.exists(f"/proc/self/fd/{name}")]}))
"""


def test_the_app_s_process_has_no_torch_and_opens_no_data(socket: Path, tmp_path: Path) -> None:
    assert main(["flower", "init", str(tmp_path / "app")]) == 0
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(tmp_path / "app" / "client_app.py"), str(socket)],
        capture_output=True,
        text=True,
        check=True,
    )
    seen = json.loads(done.stdout)
    assert Presence.from_bytes(response_of(bytes.fromhex(seen["frame"])) or b"").client_id == "clinic"
    assert not {name.partition(".")[0] for name in seen["modules"]} & {"torch", "torchvision", "opacus", "sklearn"}
    ours = {name for name in seen["modules"] if name.startswith("private_distdd.")}
    assert ours <= {
        *("private_distdd.encoding", "private_distdd.errors", "private_distdd.files", "private_distdd.limits"),
        *("private_distdd.validate", "private_distdd.engines", "private_distdd.engines.forwarder"),
        *("private_distdd.engines.relay", "private_distdd.wire", "private_distdd.wire.engine"),
        *("private_distdd.wire.frame", "private_distdd.wire.parsing", "private_distdd.wire.receive"),
    }
    assert [
        name for name in seen["opened"] if name.startswith(str(socket.parent))
    ] == []  # data, ledger and key lie there
    assert [name for name in seen["held"] if name.startswith("/") and not name.startswith("/dev/")] == []
