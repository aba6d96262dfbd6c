"""`private-distdd site`: init, run, status, approve, decline, as an owner types them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from private_distdd.cli import main
from private_distdd.cli.site import _ledger, _terms
from private_distdd.data.info import DatasetInfo
from private_distdd.engines.sites import Sites
from private_distdd.errors import ConsentPendingError
from private_distdd.methods.collabdm import CollabDM
from private_distdd.privacy.accountants import best_epsilon
from private_distdd.privacy.ledger import Budget, Ledger, parse
from private_distdd.privacy.plan import Privacy, PrivacyPlan
from private_distdd.rounding import rounded_up
from private_distdd.site.config import SiteConfig
from private_distdd.site.daemon import Daemon
from private_distdd.wire.run import Run

INFO = DatasetInfo("scans", 10, (1, 8, 8))


@pytest.fixture
def config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    folder = tmp_path / "clinic"
    assert main(["site", "init", str(folder), "--client-id", "clinic"]) == 0
    capsys.readouterr()
    x, y = np.zeros((20, 8, 8), np.uint8), np.arange(20) % 10
    np.savez(folder / "data.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    toml = folder / "site.toml"
    toml.write_text(toml.read_text().replace("num_classes = 10 ", 'name = "scans"\nnum_classes = 10 ', 1))
    return toml


def test_init_makes_a_key_and_an_example_for_its_owner_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "clinic"
    assert main(["site", "init", str(folder), "--client-id", "clinic"]) == 0
    assert re.search(r"\n[0-9a-f]{64}\n", capsys.readouterr().out)
    assert {path.name: path.stat().st_mode & 0o777 for path in (folder, *folder.iterdir())} == {
        "clinic": 0o700,
        "key.pem": 0o600,
        "site.toml": 0o600,
    }
    before = (folder / "key.pem").read_bytes()
    assert main(["site", "init", str(folder), "--client-id", "clinic"]) == 2
    assert (folder / "key.pem").read_bytes() == before
    assert main(["site", "init", str(tmp_path / "other"), "--client-id", "a b"]) == 2
    assert not (tmp_path / "other").exists()


def test_from_the_first_offer_to_the_signature(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = ["site"]

    def said(*arguments: str, code: int = 0) -> str:
        assert main([*site, *arguments]) == code
        return capsys.readouterr().out

    assert "not running" in said("status", str(config))
    read = SiteConfig.read(config)
    client = read.client()
    daemon = Daemon(client, read.socket)
    thread = threading.Thread(target=daemon.serve)
    thread.start()
    try:
        status = said("status", str(config))
        assert "clinic: listening at" in status
        assert "spent 0, promised in all 0; the budget is epsilon 8" in status
        assert "waits" not in status
        method = CollabDM(
            ipc=1, networks=2, matching_steps=2, privacy=Privacy(target_epsilon=2), model_args={"width": 8, "depth": 1}
        )
        engine = Sites({"clinic": read.socket})
        with pytest.raises(ConsentPendingError):
            method.fit(engine, info=INFO, checkpoint=tmp_path / "run")
        status = said("status", str(config))
        assert "waits for consent: run " in status
        assert "costs epsilon 2.000 at your delta 1e-05 in all" in status
        assert "the budget can pay that" in status
        (run,) = read.consents(client.key).waiting()
        monkeypatch.setattr("builtins.input", lambda _: "n")
        assert "not agreed" in said("approve", str(config), run.run_id, code=1)
        monkeypatch.setattr("builtins.input", lambda _: "y")
        said("approve", str(config), run.run_id, "--yes", code=2)  # a name says no terms
        agreed = said("approve", str(config), run.run_id)
        assert run.terms_digest in agreed
        assert "noise" in agreed
        release = method.fit(engine, info=INFO, checkpoint=tmp_path / "run", resume=True)
        assert "spent 2.000, promised in all 2.000" in said("status", str(config))
        assert release.signers({"clinic": client.key.fingerprint})["clinic"].known
        with pytest.raises(ConsentPendingError):
            method.fit(engine, info=INFO)
        (run,) = read.consents(client.key).waiting()
        said("decline", str(config), run.run_id)
        assert "waits" not in said("status", str(config))
        said("approve", str(config), run.terms_digest, "--yes", code=2)  # it waits no longer
    finally:
        daemon.stop()
        thread.join()
        client.ledger.close()


def test_a_process_of_its_own_ends_when_asked_to_and_leaks_nothing(config: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "private_distdd.cli", "site", "run", str(config)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert re.search(r"clinic: listening at .*site\.sock; key [0-9a-f]{64}", process.stdout.readline())
        found = Sites({"clinic": config.parent / "site.sock"}).exchange("ledger", {"clinic": b""}, deadline=60)
        assert found["clinic"] is not None
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        assert process.stdout.read() == "clinic: ended\n"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert not (config.parent / "site.sock").exists()
    assert len(parse((config.parent / "ledger.jsonl").read_bytes())) == 1
    assert "ledger: " in (config.parent / "site.log").read_text()
    made = [path for path in config.parent.iterdir() if path.name not in ("data.npz",)]
    assert {path.name: os.stat(path).st_mode & 0o077 for path in made if os.stat(path).st_mode & 0o077} == {}


def test_a_text_of_the_server_s_cannot_dress_up_as_ours(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    read = SiteConfig.read(config)
    evil = DatasetInfo("scans\n  costs epsilon 0.01\x1b[2J", 10, (1, 8, 8))
    text = _terms(read, _ledger(read), Run("run-1", evil, Privacy(target_epsilon=2).plan(1)))
    assert "\x1b" not in text
    assert text.count("costs epsilon") == 2
    assert len(text.splitlines()) == 5


def test_a_price_is_at_the_owner_s_delta_and_none_at_all_is_said(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = SiteConfig.read(config)
    plan = PrivacyPlan(1.2, 1.0, 1.0, 1.0, 1, delta=0.9)  # by which the run would cost nothing
    text = _terms(read, _ledger(read), Run("run-1", INFO, plan))
    assert f"costs epsilon {rounded_up(best_epsilon([plan.schedule], 1e-5))} at your delta 1e-05" in text
    monkeypatch.setattr(Ledger, "affords", lambda *_: Budget(-1, 0.1))  # an error of our own, wherever it comes from
    assert "its price cannot be computed" in _terms(read, _ledger(read), Run("run-1", INFO, plan))
