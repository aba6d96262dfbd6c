"""What can be seen of a process beside its messages: loggers, streams, warnings, files; it must not depend on data."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from private_distdd.auditing.checks.outcome import certain
from private_distdd.auditing.probe import Probe, every_question
from private_distdd.auditing.report.records import AuditRecord
from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.encoding import sha256
from private_distdd.engines.in_process import InProcess
from private_distdd.privacy.ledger import Ledger
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.privacy.randomness import InsecureRandomness
from private_distdd.server.reading import Wanted
from private_distdd.server.session import Session
from private_distdd.site.client import Client
from private_distdd.wire.message import Message
from private_distdd.wire.run import Run

_INFO = DatasetInfo("noise", 4, (1, 8, 8), (0.5,), (0.5,))
_OWN = "private_distdd_client."  # a client's own log stays with it, by docs/theorem.md, section 9
_ADDRESSES = "filelock"  # a logger that tells where its objects lie in memory, which is chance
_SIZES = (0, 1, 40, 41)  # neighbours, twice; and an empty batch beside a full one
_ROUNDS = 2


@dataclass
class Seen:
    """All that a process let be seen while it was watched.

    Attributes:
        lines: what was logged (but by the clients' own loggers), warned of, or written to standard output and error.
        own: what the clients' own loggers said.
        files: contents of all files under the watched folder, by path, folders with None.
    """

    lines: list[str] = field(default_factory=list)
    own: list[str] = field(default_factory=list)
    files: dict[str, bytes | None] = field(default_factory=dict)


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[Seen]:
    """Everything observable of this process, while it works in `folder`, an empty one, and makes temporary files there.

    Every record of every logger counts, at every level, whether or not anybody listens; so do the file descriptors 1
    and 2 themselves.  Records and warnings are kept from their usual listeners meanwhile.
    """
    seen = Seen()

    def handle(_: logging.Logger, record: logging.LogRecord) -> None:
        lines = seen.own if record.name.startswith(_OWN) else seen.lines
        if record.name != _ADDRESSES:
            lines.append(f"logger {record.name}, {record.levelname}: {record.getMessage()} {record.exc_info or ''}")

    def warn(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        seen.lines.append(f"warning {category.__name__}: {message}")

    before = os.getcwd(), tempfile.tempdir
    output = io.StringIO()
    with contextlib.ExitStack() as stack:
        for place in ("work", "temporary"):
            (folder / place).mkdir()
        stack.callback(os.chdir, before[0])
        os.chdir(folder / "work")
        stack.enter_context(mock.patch.object(tempfile, "tempdir", str(folder / "temporary")))
        stack.enter_context(mock.patch.dict(os.environ, {"TMPDIR": str(folder / "temporary"), "HOME": str(folder)}))
        stack.enter_context(mock.patch.object(logging.Logger, "isEnabledFor", return_value=True))
        stack.enter_context(mock.patch.object(logging.Logger, "handle", handle))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("always")
        stack.enter_context(mock.patch.object(warnings, "showwarning", warn))
        stack.enter_context(contextlib.redirect_stdout(output))
        stack.enter_context(contextlib.redirect_stderr(output))
        file = stack.enter_context(tempfile.TemporaryFile(dir=folder.parent))
        stack.enter_context(_descriptors(file.fileno()))
        yield seen
        sys.stdout.flush()
        file.seek(0)
        written = output.getvalue() + file.read().decode(errors="replace")
    seen.lines += [f"written: {line}" for line in written.splitlines()]
    seen.lines = [line.replace(str(folder), "FOLDER") for line in seen.lines]
    for path in sorted(folder.rglob("*")):
        seen.files[str(path.relative_to(folder))] = path.read_bytes() if path.is_file() else None


@contextlib.contextmanager
def _descriptors(target: int) -> Iterator[None]:
    """Standard output and error of the process itself, below Python's own objects, go to another descriptor."""
    kept = [(number, os.dup(number)) for number in (1, 2)]
    try:
        for number, _ in kept:
            os.dup2(target, number)
        yield
    finally:
        for number, copy in kept:
            os.dup2(copy, number)
            os.close(copy)


def _session(
    make: Callable[..., Client], size: int, question: Probe, seed: int, parent: Path
) -> tuple[Seen, tuple[str, ...]]:
    """A server and one client with so many examples, over two rounds: what was seen, and digests of the messages."""
    images = torch.randn((size, *_INFO.shape), generator=torch.Generator().manual_seed(0))
    held = ImageDataset(images, torch.arange(size) % _INFO.num_classes, _INFO)
    run = Run("observed", _INFO, PrivacyPlan(1.0, 1.0, 1.0, 1.0, _ROUNDS, delta=1e-5))
    messages: list[Message] = []
    with tempfile.TemporaryDirectory(dir=parent) as place, watched(Path(place)) as seen:
        ledger = Ledger(Path(place) / "audited.jsonl")
        session = Session(InProcess([make("audited", held, ledger, randomness=InsecureRandomness(seed))]), run)
        shape = question.shape(_INFO)
        for server_round in range(_ROUNDS):
            query = question.query(run, server_round)
            messages += session.ask(dict.fromkeys(session.active, Wanted(query, shape))).messages
        seen.lines.append(f"session: {session.active}, {session.answered}")
        ledger.close()
    return seen, tuple(sha256(message.data) for message in messages)


def observed_check(make: Callable[..., Client] = Client, seed: int = 0) -> AuditRecord:
    """Nothing but the bytes of messages depends on the data: no log, no warning, no output, no file.

    A server asks one client two rounds of each registered question, with equal noise, where the client holds 0, 1, 40
    and 41 examples, all of them in every batch.  What is seen of the process must be the same each time: records of
    every logger at every level, warnings, standard output and error down to their file descriptors, and the names and
    sizes of all files below the working folder, the temporary one and the ledger's.  Asked with weights that are not
    numbers, every example counts as zero and even the messages are equal: then the contents of all files must be too.

    A client's own log (private_distdd_client.<client_id>) is not compared: it stays with the client, by the theorem.

    Args:
        make: the clients: `Client`, or what takes its place.
        seed: of the noise.
    """
    started, findings, own, alike = time.perf_counter(), list[str](), 0, 0
    questions = dict(every_question(_INFO))
    for kind, question in list(questions.items()):
        questions |= {f"{kind}, {name}": asked for name, asked in question.hostile().items() if name == "NaN"}
    with tempfile.TemporaryDirectory() as parent:
        for kind, question in questions.items():
            # The first run imports and caches: what it leaves behind is not the data's.
            _, *runs = (_session(make, size, question, seed, Path(parent)) for size in (_SIZES[0], *_SIZES))
            (first, messages), *others = runs
            for size, (other, own_messages) in zip(_SIZES[1:], others, strict=True):
                between = f"{kind}, {_SIZES[0]} or {size} examples"
                own += first.own != other.own
                alike += messages == own_messages
                findings += [f"{between}: {line}" for line in sorted(set(first.lines) ^ set(other.lines))]
                if len(messages) != len(own_messages):
                    findings.append(f"{between}: {len(messages)} or {len(own_messages)} messages")
                elif sorted(first.lines) != sorted(other.lines) and not findings:
                    findings.append(f"{between}: a line is said more often")
                for path in sorted(first.files.keys() | other.files.keys()):
                    if path not in first.files or path not in other.files:
                        findings.append(f"{between}: file {path} in one of them")
                        continue
                    one, two = first.files[path], other.files[path]
                    if len(one or b"") != len(two or b"") or (messages == own_messages and one != two):
                        findings.append(f"{between}: file {path} differs")
    return certain(
        "observed_check",
        started,
        findings[:10],
        claim="nothing that can be seen of a process but its messages depends on the data",
        statistic="loggers, warnings, standard output and error, files, with equal noise over different data",
        trials=len(questions) * len(_SIZES),
        adversary="reads logs, terminals and disks of the server, and of the client all but its own log",
        assumptions="files below the working, temporary and ledger's folders; time, memory and sockets are outside",
        seed=seed,
        figures={"comparisons with equal messages": alike, "differences in the client's own log": own},
    )
