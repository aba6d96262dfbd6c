"""Noise after a restart: fresh interpreters, and a fork, over the same data and the same query.

`python -m private_distdd.auditing.checks.restart MODULE CLASS FOLDER` is one life of a client, by `restart_check`.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from private_distdd.auditing.checks.outcome import certain
from private_distdd.auditing.probe import any_question
from private_distdd.auditing.report.records import AuditRecord
from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.privacy.ledger import Ledger
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.site.client import Client
from private_distdd.wire.run import Run

_LIVES = 2
_INFO = DatasetInfo("noise", 2, (1, 8, 8), (0.5,), (0.5,))


def restart_check(client: type[Client] = Client) -> AuditRecord:
    """A client that starts again sends fresh noise, though data, query, folder and environment are the same.

    Two interpreters are started one after the other in one folder, with equal hash seeds.  In each, two clients of one
    name answer one query over the same two examples with q = 1, one with a ledger file and one in memory; then the
    process forks, and a client of each half answers it again.  No two of the eight messages may carry the same noise.

    Args:
        client: the class attacked; fresh interpreters import it by its name.
    """
    started = time.perf_counter()
    paths = [*(path for path in sys.path if path), os.getcwd()]
    environment = os.environ | {"PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", __name__, client.__module__, client.__qualname__]
    messages: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = {}
    findings = []
    with tempfile.TemporaryDirectory() as folder:
        for life in range(1, _LIVES + 1):
            done = subprocess.run(  # noqa: S603 - this interpreter, this module
                [*command, folder], env=environment, cwd=folder, capture_output=True, text=True, check=False
            )
            if done.returncode:
                findings.append(f"life {life} ended with an error: {done.stderr.strip().splitlines()[-1:]}")
            for path in sorted(Path(folder).glob("*.npy")):
                messages[f"life {life}, {path.stem}"] = np.load(path)
                path.unlink()
    if len(messages) < _LIVES * (4 if hasattr(os, "fork") else 2):
        findings.append(f"only {len(messages)} messages were answered")
    for (one, first), (other, second) in itertools.combinations(messages.items(), 2):
        if float((first == second).mean()) > 0.1:
            findings.append(f"{one} and {other} carry the same noise")
    return certain(
        "restart_check",
        started,
        findings[:10],
        claim="a restart, or a fork, does not bring back noise",
        statistic="equality of messages of several interpreters",
        trials=len(messages),
        adversary="restarts a client",
        assumptions="this machine; a restored snapshot of it is outside",
    )


def _live(client: type[Client], folder: Path) -> None:
    """One life: the messages are left in `folder`, the ledgers beside them."""
    torch.set_num_threads(1)
    images = torch.linspace(-1, 1, 128).reshape(2, *_INFO.shape)
    held = ImageDataset(images, torch.tensor([0, 1]), _INFO)
    run = Run("restart", _INFO, PrivacyPlan(1.0, 1.0, 1.0, 1.0, 1, delta=1e-5))
    question = any_question(_INFO)
    numbers = range(len(list(folder.glob("*.jsonl"))), 1 << 30)
    path = next(path for path in (folder / f"audited-{i}.jsonl" for i in numbers) if not path.exists())

    def answer(name: str, ledger: Ledger) -> None:
        own = client("audited", held, ledger)
        own.enroll(run)
        np.save(folder / f"{name}.npy", own.answer(question.query(run, 0)).values.numpy())

    answer("in a file", Ledger(path))
    answer("in memory", Ledger(None))
    if hasattr(os, "fork"):
        child = os.fork()
        if child == 0:
            with contextlib.suppress(Exception):
                answer("child of a fork", Ledger(None))
            os._exit(0)
        os.waitpid(child, 0)
        answer("parent of a fork", Ledger(None))


if __name__ == "__main__":
    module, name, place = sys.argv[1:]
    _live(getattr(importlib.import_module(module), name), Path(place))
