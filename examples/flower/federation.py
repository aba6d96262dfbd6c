"""The processes of a federation, all on this machine and on loopback: a SuperLink, SuperNodes, and sites.

What each of them is started with is what a hospital would type; docs/flower.md says it in words.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from examples.flower.keys import write_certificates, write_node_key
from private_distdd import load_dataset

QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1"}
COMMAND = [sys.executable, "-m", "private_distdd.cli"]
ROOT = Path(__file__).parents[2]


class Process:
    """One program with a log of its own, in a session of its own: it and what it starts can be ended together.

    Args:
        name: of the log, in the folder.
        arguments: the command.
        folder: where it runs.
        environment: all of it.
    """

    def __init__(self, name: str, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.name, self.log = name, folder / f"{name}.out"
        with self.log.open("ab") as log:
            self._old = log.tell()  # what an earlier process of this name has said
            self._process = subprocess.Popen(  # noqa: S603 - the commands are below
                arguments,
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def wait_for(self, text: str, seconds: float = 60.0) -> None:
        """Until its log holds the text."""
        end = time.monotonic() + seconds
        while not re.search(text, said := self.log.read_bytes()[self._old :].decode(errors="replace")):
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{self.name} did not say {text!r}:\n{said[-2000:]}")
            time.sleep(0.1)

    def kill(self) -> None:
        """As a power cut does: SIGKILL to it, not to what it has started."""
        self._process.kill()
        self._process.wait()

    def end(self, seconds: float = 15.0) -> None:
        """SIGTERM, and SIGKILL to all of its session that is left."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


class Federation:
    """A server's folder, and a folder for each hospital with its site and its SuperNode; ends what it has started.

    Args:
        folder: an empty one.
        names: of the hospitals.
        epsilon: each site's lifetime budget, at delta 1e-5.
    """

    def __init__(self, folder: Path, names: Sequence[str], epsilon: float = 20.0) -> None:
        self.folder, self.names, self.server = folder, tuple(names), folder / "server"
        self.app = self.server / "app"
        self._epsilon, self._running, self._port = epsilon, list[Process](), _free_port()

    def __enter__(self) -> Federation:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End what was started, the newest first: the server is the last.  Again does nothing."""
        while self._running:
            self._running[-1].end()
            self._running.pop()
        end = time.monotonic() + 15
        while left := self.left_over():  # Flower's helpers end when they notice; who does not notice is killed
            if time.monotonic() > end:
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(0.2)

    def left_over(self) -> list[int]:
        """Processes of this federation that live, by what they were started with."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # another user's, or gone by now
                if f"FLWR_HOME={self.folder}/".encode() in (process / "environ").read_bytes():
                    found.append(int(process.name))
        return found

    def prepare(self) -> None:
        """Certificates, keys, data and configurations: what is done once, and by hand in a real federation."""
        self.server.mkdir(mode=0o700)
        write_certificates(self.server)
        (self.server / "flwr").mkdir()
        (self.server / "flwr" / "config.toml").write_text(
            f'[superlink]\ndefault = "federation"\n\n[superlink.federation]\naddress = "127.0.0.1:{self._port}"\n'
            f'root-certificates = "{self.server / "ca.pem"}"\n'
        )
        self.run([*COMMAND, "flower", "init", "app"])
        for name, data in zip(self.names, _parts(len(self.names)), strict=True):
            home = self.folder / name
            self.run([*COMMAND, "site", "init", str(home), "--client-id", name])
            write_node_key(home)
            (home / "ca.pem").write_bytes((self.server / "ca.pem").read_bytes())
            np.savez(home / "data.npz", **data)
            (home / "site.toml").write_text(_SITE.format(name=name, epsilon=self._epsilon))

    def start_server(self) -> Process:
        """The SuperLink, with TLS and node authentication."""
        certificates = {"ca-certfile": "ca.pem", "certfile": "server.pem", "keyfile": "server.key"}
        self._superlink = self.begin(
            "superlink",
            [
                *("flower-superlink", "--host", "127.0.0.1", "--port", str(self._port)),
                *(part for name, file in certificates.items() for part in (f"--ssl-{name}", file)),
                *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
            ],
            self.server,
        )
        self._superlink.wait_for("Application startup complete")
        return self._superlink

    def start_site(self, name: str) -> Process:
        """What holds a hospital's data, ledger and noise; it says "listening" when it is ready."""
        return self.begin("site", [*COMMAND, "site", "run", "site.toml"], self.folder / name)

    def admit(self, name: str) -> None:
        """Tell the server a SuperNode's key."""
        self.run(["flwr", "supernode", "register", str(self.folder / name / "node.pub"), "federation"])

    def start_node(self, name: str, *, own: bool = False) -> Process:
        """The SuperNode beside a site: it calls the server, and nobody calls it; it says its "ID" when it is ready.

        Args:
            name: of the hospital.
            own: in place of Flower's, the one of this library, which runs no ClientApp.
        """
        home, server = self.folder / name, f"127.0.0.1:{self._port}"
        if own:
            files = ("--root-certificates", "ca.pem", "--key", "node.key", "--socket", "site.sock")
            return self.begin("supernode", [*COMMAND, "flower", "node", "--superlink", server, *files], home)
        return self.begin(
            "supernode",
            [
                *("flower-supernode", "--superlink", server, "--root-certificates", "ca.pem"),
                *("--auth-supernode-private-key", "node.key", "--host", "127.0.0.1", "--port", str(_free_port())),
                *("--node-config", f'socket="{home / "site.sock"}"'),
            ],
            home,
        )

    def submit(self, app: Path, config: Mapping[str, Any]) -> str:
        """Start a run of a Flower app, with other values than its own; its number.

        Raises:
            RuntimeError: it has not started (`flwr run` exits with 0 all the same).
        """
        overrides = self.server / "run.toml"
        overrides.write_text("".join(f"{name} = {_toml(value)}\n" for name, value in config.items()))
        printed = self.run(["flwr", "run", str(app), "federation", "--run-config", str(overrides), "--format", "json"])
        answer = json.loads(printed)
        if not answer["success"]:
            raise RuntimeError(f"no run of {app} with {overrides}: {answer}")
        return str(answer["run-id"])

    def status(self, run_id: str) -> str:
        """`flwr run` tells nothing of how a run ends: "running", "finished:completed", "finished:failed", ..."""
        printed = self.run(["flwr", "ls", "--run-id", run_id, "federation", "--format", "json"])
        return str(json.loads(printed)["runs"][0]["status"])

    def wait(self, run_id: str, seconds: float = 600.0) -> None:
        """Until the run has completed.

        Raises:
            RuntimeError: it ended otherwise, or takes longer.
        """
        self._superlink.wait_for(f"Finished task [0-9]+ of run {run_id}", seconds)
        if (status := self.status(run_id)) != "finished:completed":
            raise RuntimeError(f"run {run_id} is {status}: see {self._superlink.log}")

    def release(self, run_id: str) -> Path:
        """Where the app leaves a run's release."""
        return self.app / "releases" / run_id

    def answers(self, name: str) -> list[float]:
        """When a site answered queries so far, by its log: seconds since 1970."""
        log = (self.folder / name / "site.log").read_text()
        times = re.findall(r"^(\S+ \S+),(\d+) INFO ask:", log, re.MULTILINE)
        return [datetime.datetime.fromisoformat(f"{time}.{fraction}").timestamp() for time, fraction in times]

    def begin(self, name: str, arguments: Sequence[str], folder: Path) -> Process:
        """Start a program that is ended with the federation."""
        process = Process(name, arguments, folder, _environment(folder))
        self._running.append(process)
        return process

    def run(self, arguments: Sequence[str]) -> str:
        """Run a command in the server's folder to its end; what it printed.

        Raises:
            RuntimeError: it failed.
        """
        done = subprocess.run(  # noqa: S603 - the commands are above
            arguments, cwd=self.server, env=_environment(self.server), capture_output=True, text=True, timeout=120
        )
        if done.returncode:
            raise RuntimeError(f"{arguments} failed:\n{done.stdout}{done.stderr}")
        return done.stdout


_SITE = """\
client_id = "{name}"
[data]
source = "data.npz"
num_classes = 10
name = "digits"
[budget]
epsilon = {epsilon}
delta = 1e-5
"""


def _environment(folder: Path) -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    ours = {"FLWR_HOME": str(folder / "flwr"), "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **QUIET, **ours}


def _parts(count: int) -> list[dict[str, Any]]:
    """The digits' training images, dealt out, as `load_dataset` reads files."""
    train, _ = load_dataset("digits")
    parts = []
    for number in range(count):
        images, labels = train.info.denormalise(train.images[number::count]), train.labels[number::count]
        parts.append(
            {
                "x_train": images.numpy(),
                "y_train": labels.numpy(),
                "x_test": np.zeros((0, *train.info.shape), np.float32),
                "y_test": np.zeros(0, np.int64),
            }
        )
    return parts


def _toml(value: object) -> str:
    return json.dumps(json.dumps(value) if isinstance(value, dict) or value is None else value)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
