"""Kill a private federation with SIGKILL again and again, let it go on from its checkpoint, and check every ledger.

    python benchmarks/crash_kills.py [--kills 500] [--seed 0]    # at random moments
    python benchmarks/crash_kills.py --every-write [--torn]      # before each write, flush and rename of a run, once

Server and clients live in one process, a fork of this one, with file ledgers and a checkpoint.  A message counts as
having left when the engine has noted its SHA-256 in a file, flushed to disk before the server sees the message.
After each kill: every message that left is charged and sealed, with these very bytes, in its client's ledger; chains
hold; no ledger has more charges than T_max.  After each run: the release verifies, every message used was sealed, and
every client has spent T_max charges, one for each message and one for each computation that a kill ended (which must
not be free: what ends a computation may depend on the data).  So such kills cost a client its last rounds, and
`--torn`, which leaves half of a ledger's line on disk, does so too.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import logging
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from private_distdd import Client, DatasetInfo, DistDD, ImageDataset, Ledger, Privacy, Release
from private_distdd.engines.in_process import InProcess
from private_distdd.privacy.ledger import Charge, History, Pin, Recovered, Sealed, parse
from private_distdd.wire.engine import ASK
from private_distdd.wire.message import Message
from private_distdd.wire.reply import Reply

NAMES, ROUNDS = ("north", "south", "west"), 6
INFO = DatasetInfo("tiny", 3, (1, 8, 8))
METHOD = DistDD(
    ipc=1,
    rounds=ROUNDS,
    model="mlp",
    model_args={"width": 8, "depth": 1},
    matching_steps=1,
    memory=2,
    network_steps=1,
    reinit_every=4,
    privacy=Privacy(noise_multiplier=2.0, sample_rate=0.5),
)


class Noted(InProcess):
    """Clients in this process; what leaves them is noted in a file first: client, message id and SHA-256 a line."""

    def __init__(self, clients: list[Client], path: Path) -> None:
        super().__init__(clients)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def exchange(self, operation: str, requests: Mapping[str, bytes], **others: Any) -> Mapping[str, bytes | None]:
        """See Engine."""
        replies: dict[str, bytes | None] = {}
        for client_id, request in requests.items():
            replies |= super().exchange(operation, {client_id: request}, **others)
            reply = replies[client_id]
            if operation == ASK and reply is not None:
                data = Reply.from_bytes(reply).answer
                message_id = Message.from_bytes(data).message_id if data[:1] != b"{" else "refusal"
                os.write(self._file, f"\n{client_id} {message_id} {hashlib.sha256(data).hexdigest()}\n".encode())
                os.fsync(self._file)
        return replies


def federate(folder: Path) -> None:
    """One life of the federation: begin or go on, and save the release, unless an earlier life has."""
    if (folder / "release").exists():
        return
    clients = []
    for seed, name in enumerate(NAMES):
        images = torch.randn((12, *INFO.shape), generator=torch.Generator().manual_seed(seed))
        ledger = Ledger(folder / f"{name}.jsonl", client_id=name)
        clients.append(Client(name, ImageDataset(images, torch.arange(12) % INFO.num_classes, INFO), ledger))
    begun = (folder / "run" / "checkpoint.safetensors").exists()
    release = METHOD.fit(Noted(clients, folder / "left.txt"), info=INFO, checkpoint=folder / "run", resume=begun)
    release.save(folder / "release")


def life(folder: Path, before: Callable[[], None] = lambda: None) -> int:
    """The process id of a fork in which the federation lives; `before` is called in it first."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        before()
        federate(folder)
        code = 0
    except BaseException as error:
        print(f"{folder}: {type(error).__name__}: {error}", file=sys.stderr)
    finally:
        os._exit(code)


def killed(process: int) -> bool:
    """Did SIGKILL end the process (True), or did it finish (False)?

    Raises:
        AssertionError: neither.
    """
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert status in (0, -signal.SIGKILL), f"a life ended with {status}"
    return status != 0


def kill_after(process: int, seconds: float) -> bool:
    """Kill the process unless it finishes before; was it killed?"""
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    return killed(process)


def die_at(call: int, torn: bool) -> None:
    """Let this process kill itself at the call-th write, flush or rename from now on; before it, or in its middle."""
    left = call

    def deadly(name: str) -> None:
        real = getattr(os, name)

        def replacement(*arguments: Any) -> Any:
            nonlocal left
            left -= 1
            if not left:
                if torn and name == "write":
                    real(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments)

        setattr(os, name, replacement)

    for name in ("write", "fsync", "replace"):
        deadly(name)


def check(folder: Path, seen: Counter[str]) -> None:
    """All that must hold after every kill; `seen` counts what the kill hit.

    Raises:
        AssertionError, LedgerError: it does not hold.
    """
    ledgers: dict[str, History] = {}
    for name in NAMES:
        path = folder / f"{name}.jsonl"
        data = path.read_bytes() if path.exists() else b""
        whole = data.rfind(b"\n") + 1
        seen["torn lines"] += whole < len(data)
        if whole:
            ledgers[name] = parse(data[:whole])  # checks the chain
    digests: dict[tuple[str, str], str] = {}
    for name, message_id, digest in left(folder):
        assert message_id == "refusal" or ledgers[name].digest(message_id) == digest, f"{name} {message_id} is unpaid"
        assert digests.setdefault((name, message_id), digest) == digest or message_id == "refusal", "fresh noise, free"
    for name, ledger in ledgers.items():
        pins = [entry for entry in ledger if isinstance(entry, Pin)]
        charges = Counter(entry.message_id for entry in ledger if isinstance(entry, Charge))
        seals = Counter(entry.message_id for entry in ledger if isinstance(entry, Sealed))
        assert len(pins) <= 1, f"{name} was enrolled in {len(pins)} runs"
        assert len(ledger.events) <= ROUNDS, f"{name} has {len(ledger.events)} charges"
        assert max(seals.values(), default=0) <= 1, f"{name} answered a round twice"
        # A kill wastes the computation that it ends, and one that tears a line costs its recovery besides.
        wasted = seen["kills of this run"] + sum(isinstance(entry, Recovered) for entry in ledger)
        assert len(ledger.events) - len(seals) <= wasted, f"{name} was charged without a kill"
        seen["between charge and seal"] += any(ledger.status(message_id) == "charged" for message_id in charges)


def left(folder: Path) -> list[list[str]]:
    """Client, message id and SHA-256 of all that left, in order, repetitions included; a half line was never used."""
    path = folder / "left.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.split() for line in lines if re.fullmatch(r"\S+ \S+ [0-9a-f]{64}", line)]


def check_end(folder: Path, seen: Counter[str]) -> None:
    """All that must hold when a run has ended.

    Raises:
        AssertionError, LedgerError, ReleaseError: it does not hold.
    """
    check(folder, seen)
    release = Release.load(folder / "release")
    release.verify()
    assert set(release.ledgers) == set(NAMES)
    bills = release.card["clients"]
    for name, bill in bills.items():
        history = parse(release.ledgers[name])
        sealed = sum(isinstance(entry, Sealed) for entry in history)
        assert bill["charges"] == len(history.events) == ROUNDS, f"{name} has {bill['charges']} charges"
        assert bill["messages_used"] == sealed, f"{bill['messages_used']} of {sealed} messages of {name} were used"
        seen["recovered lines"] += sum(isinstance(entry, Recovered) for entry in history)
        seen["charges without a message"] += ROUNDS - sealed
    done = max(bill["messages_used"] for bill in bills.values())
    # With nobody left to ask a run ends early; else all its rounds were begun.
    assert release.card["progress"]["rounds_done"] == ROUNDS or done < ROUNDS, "rounds are missing"
    messages = [tuple(line) for line in left(folder) if line[1] != "refusal"]
    seen["messages"] += len(set(messages))
    seen["sent again"] += len(messages) - len(set(messages))
    seen["runs"] += 1
    seen["kills of this run"] = 0


def fresh() -> tempfile.TemporaryDirectory[str]:
    """A folder for one run."""
    return tempfile.TemporaryDirectory(prefix="crash_kills.")


def random_kills(kills: int, seed: int) -> Counter[str]:
    """Runs that are killed at random moments until `kills` kills have hit, the last run brought to its end."""
    chance, seen = random.Random(seed), Counter[str]()  # noqa: S311 - when to kill is public
    with fresh() as name:
        start = time.monotonic()
        assert not killed(life(Path(name)))
        whole = time.monotonic() - start
    while seen["kills"] < kills:
        with fresh() as name:
            folder = Path(name)
            while seen["kills"] < kills and kill_after(life(folder), chance.uniform(0, whole)):
                seen.update(["kills", "kills of this run"])
                check(folder, seen)
            assert not killed(life(folder))
            check_end(folder, seen)
    return seen


def every_write(stride: int, torn: bool) -> Counter[str]:
    """A run killed at its first write, flush or rename and brought to its end, one killed `stride` later, and so on."""
    seen, call = Counter[str](), 1 - stride
    while True:
        call += stride
        with fresh() as name:
            folder = Path(name)
            if not killed(life(folder, lambda: die_at(call, torn))):  # noqa: B023 - called in this very turn
                check_end(folder, seen)
                return seen
            seen.update(["kills", "kills of this run"])
            check(folder, seen)
            assert not killed(life(folder))
            check_end(folder, seen)


def main() -> None:
    """Run what the command line asks for, and print one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=500, metavar="N", help="kills at random moments (default 500)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    parser.add_argument(
        "--every-write",
        type=int,
        nargs="?",
        const=1,
        metavar="STRIDE",
        help="kill at each write, flush and rename instead, or at every STRIDE-th",
    )
    parser.add_argument("--torn", action="store_true", help="with --every-write: in the middle of writes")
    options = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a process whose autograd has seen a GPU cannot be forked
    torch.set_num_threads(1)
    logging.disable()  # refusals after torn lines are expected
    with fresh() as name:  # late imports and caches, once for all lives
        federate(Path(name))
        check_end(Path(name), Counter())
    start = time.monotonic()
    if options.every_write:
        seen = every_write(options.every_write, options.torn)
    else:
        seen = random_kills(options.kills, options.seed)
    details = ", ".join(f"{count} {what}" for what, count in seen.items() if what != "kills of this run")
    print(f"{details}; {time.monotonic() - start:.0f} s: every message that left is sealed and charged; no violation")


if __name__ == "__main__":
    main()
