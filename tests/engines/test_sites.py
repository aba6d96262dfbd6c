"""Sites by their sockets: the same run as in one process, and who is absent is absent."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from daemons import serving

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.engines.sites import Sites
from private_distdd.errors import ConfigurationError, ConsentPendingError, NotPrivateWarning
from private_distdd.methods.collabdm import CollabDM
from private_distdd.methods.distdd import DistDD
from private_distdd.privacy.plan import Privacy
from private_distdd.site.client import Client
from private_distdd.site.consents import Consents
from private_distdd.site.key import SiteKey
from private_distdd.wire.engine import ENROL, LEDGER, Engine, ExchangeInterrupted
from private_distdd.wire.frame import response_frame

MakeImages = Callable[..., ImageDataset]
SMALL = {"model_args": {"width": 8, "depth": 1}}


def clients(make_images: MakeImages, **others: object) -> list[Client]:
    return [Client(f"c{i}", make_images(9, seed=i), **others) for i in range(3)]  # type: ignore[arg-type]


def test_s_is_that_of_one_process(make_images: MakeImages, tiny_info: DatasetInfo, tmp_path: Path) -> None:
    method = DistDD(ipc=1, rounds=3, model="mlp", matching_steps=2, seed=5, **SMALL)
    with pytest.warns(NotPrivateWarning):
        here = method.fit(clients(make_images))
    with (
        serving(tmp_path, *clients(make_images, allow_without_privacy=True)) as sockets,
        pytest.warns(NotPrivateWarning),
    ):
        there = method.fit(Sites(sockets), info=tiny_info)
    assert torch.equal(here.dataset.images, there.dataset.images)


def test_a_private_run_is_signed_by_its_sites(make_images: MakeImages, tiny_info: DatasetInfo, tmp_path: Path) -> None:
    sites = clients(make_images)
    with serving(tmp_path, *sites) as sockets:
        assert isinstance(Sites(sockets), Engine)
        method = CollabDM(ipc=1, networks=2, matching_steps=2, privacy=Privacy(target_epsilon=2), **SMALL)
        release = method.fit(Sites(sockets), info=tiny_info)
    release.verify()
    signers = release.signers({})
    assert {name: signer.fingerprint for name, signer in signers.items()} == {
        site.client_id: site.key.fingerprint for site in sites
    }


def test_a_run_stops_before_anything_is_spent_until_every_owner_has_agreed(
    make_images: MakeImages, tiny_info: DatasetInfo, tmp_path: Path
) -> None:
    key = SiteKey.for_this_process()
    consents = Consents(tmp_path / "consents", "c1", key)
    asked, unasked = Client("c1", make_images(9), key=key, consent=consents), Client("c0", make_images(9, seed=1))
    method = CollabDM(ipc=1, networks=2, matching_steps=2, privacy=Privacy(target_epsilon=2), **SMALL)
    with serving(tmp_path, unasked, asked) as sockets:
        for resume in (False, True):
            with pytest.raises(ConsentPendingError, match=r"consent of \['c1'\].*resume=True"):
                method.fit(Sites(sockets), info=tiny_info, checkpoint=tmp_path / "run", resume=resume)
        assert not unasked.ledger.events
        assert not asked.ledger.events
        (run,) = consents.waiting()  # the same run both times
        consents.approve(run)
        release = method.fit(Sites(sockets), info=tiny_info, checkpoint=tmp_path / "run", resume=True)
    assert set(release.epsilon) == {"c0", "c1"}
    assert len(asked.ledger.events) == 1


def test_who_is_not_there_is_absent(make_images: MakeImages, tmp_path: Path) -> None:
    with serving(tmp_path, *clients(make_images)[:1]) as sockets:
        engine, told = Sites({**sockets, "c1": tmp_path / "nobody.sock"}), list[str]()
        engine.came = told.append
        found = engine.exchange(LEDGER, dict.fromkeys(engine.client_ids, b""))
    assert found["c0"] is not None
    assert found["c1"] is None
    assert told == ["c0"]


def test_a_site_that_is_being_started_is_waited_for(make_images: MakeImages, tmp_path: Path) -> None:
    engine, found = Sites({"c0": tmp_path / "c0.sock"}), {}
    thread = threading.Thread(target=lambda: found.update(engine.exchange(LEDGER, {"c0": b""}, deadline=60)))
    thread.start()
    time.sleep(0.05)
    with serving(tmp_path, *clients(make_images)[:1]):
        thread.join(timeout=60)
    assert found["c0"] is not None


class Listener:
    """A site that says what it is told to, or nothing."""

    def __init__(self, path: Path, response: bytes | None = None) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        self._socket.listen()
        self._thread = threading.Thread(target=self._answer)
        self._response, self._open = response, list[socket.socket]()
        self._thread.start()

    def _answer(self) -> None:
        connection, _ = self._socket.accept()
        self._open.append(connection)
        if self._response is not None:
            connection.recv(1 << 16)
            connection.sendall(self._response)
            connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(timeout=60)
        for end in (self._socket, *self._open):
            end.close()


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n".ljust(100),
        response_frame(b"reply")[:-1],
        response_frame(b"reply")[:-1] + b"Y",
        response_frame(b""),
    ],
    ids=["nothing", "another protocol", "cut", "garbled", "no answer"],
)
def test_what_is_no_response_is_none(tmp_path: Path, response: bytes) -> None:
    with Listener(tmp_path / "c0.sock", response):
        assert Sites({"c0": tmp_path / "c0.sock"}).exchange(ENROL, {"c0": b"run"}) == {"c0": None}


def test_a_deadline_ends_the_wait(make_images: MakeImages, tmp_path: Path) -> None:
    with serving(tmp_path, *clients(make_images)[:1]) as sockets, Listener(tmp_path / "slow.sock"):
        engine = Sites({**sockets, "slow": tmp_path / "slow.sock", "none": tmp_path / "none.sock"})
        found = engine.exchange(LEDGER, dict.fromkeys(engine.client_ids, b""), deadline=0.3)
    assert found["c0"] is not None
    assert found["slow"] is found["none"] is None


def test_enough_replies_end_the_wait(make_images: MakeImages, tmp_path: Path) -> None:
    with serving(tmp_path, *clients(make_images)[:1]) as sockets, Listener(tmp_path / "slow.sock"):
        engine = Sites({"slow": tmp_path / "slow.sock", **sockets})
        found = engine.exchange(LEDGER, dict.fromkeys(engine.client_ids, b""), enough=1)  # else it would wait for ever
    assert found["c0"] is not None
    assert found["slow"] is None


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C is KeyboardInterrupt, even where this process was started to ignore it (in a shell's background)."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_hands_over_what_had_come(make_images: MakeImages, tmp_path: Path) -> None:
    with serving(tmp_path, *clients(make_images)[:1]) as sockets, Listener(tmp_path / "slow.sock"):
        engine = Sites({"slow": tmp_path / "slow.sock", **sockets})
        timer = threading.Timer(0.5, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
        timer.start()
        with pytest.raises(ExchangeInterrupted) as caught:
            engine.exchange(LEDGER, dict.fromkeys(engine.client_ids, b""))
    timer.join()
    assert caught.value.replies["c0"] is not None
    assert caught.value.replies["slow"] is None


def test_no_sites_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least one"):
        Sites({})
