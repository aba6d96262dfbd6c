"""Kill sites and the server, each a process of its own, with SIGKILL, start them anew, and check every ledger.

    python benchmarks/site_kills.py [--kills 100] [--seed 0]

Three sites (`Daemon`, forks of this process) and a server (`Sites`, a checkpoint) run `crash_kills`'s federation.  At a
random moment one of the four, chosen by chance, is killed and started again, until the run has ended; then another run
begins.  A message counts as having left when its site has noted its SHA-256 in a file, flushed to disk before the
socket sees it.  After each kill: every message that left is charged and sealed, with these very bytes.  After each run:
the release verifies; no message was sealed twice; a site has a charge for each message, and one more at most for each
of its own kills and recovered lines.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import logging
import os
import random
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from crash_kills import INFO, METHOD, NAMES, federate, fresh, left

from private_distdd import Client, ImageDataset, Ledger, Release
from private_distdd.engines.sites import Sites
from private_distdd.privacy.ledger import History, Recovered, Sealed, parse
from private_distdd.site.daemon import Daemon
from private_distdd.wire.message import Message
from private_distdd.wire.reply import Reply

SERVER, PROCESSES = "server", (*NAMES, "server")
DEADLINE = 60.0  # seconds that a round waits for a site that is being started


class Noted(Daemon):
    """A site that notes what leaves it first: client, message id and SHA-256 a line."""

    def __init__(self, client: Client, path: Path, notes: Path) -> None:
        super().__init__(client, path)
        self._notes = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def _response(self, connection: socket.socket) -> bytes:
        response = super()._response(connection)
        with contextlib.suppress(Exception):  # an enrolment, a ledger or a refusal: no message
            answer = Reply.from_bytes(response).answer
            message = Message.from_bytes(answer)
            note = f"\n{message.client_id} {message.message_id} {hashlib.sha256(answer).hexdigest()}\n"
            os.write(self._notes, note.encode())
            os.fsync(self._notes)
        return response


def site(folder: Path, name: str) -> None:
    """One life of a site: until it is ended."""
    generator = torch.Generator().manual_seed(NAMES.index(name))
    images = ImageDataset(
        torch.randn((12, *INFO.shape), generator=generator), torch.arange(12) % INFO.num_classes, INFO
    )
    client = Client(name, images, Ledger(folder / f"{name}.jsonl", client_id=name))
    Noted(client, folder / f"{name}.sock", folder / "left.txt").serve()


def server(folder: Path) -> None:
    """One life of the server: begin or go on, and save the release, unless an earlier life has."""
    if (folder / "release").exists():
        return
    engine = Sites({name: folder / f"{name}.sock" for name in NAMES})
    begun = (folder / "run" / "checkpoint.safetensors").exists()
    method = replace(METHOD, deadline=DEADLINE)
    method.fit(engine, info=INFO, checkpoint=folder / "run", resume=begun).save(folder / "release")


def life(folder: Path, name: str) -> int:
    """The process id of a fork that lives as this site, or as the server."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        if name == SERVER:
            server(folder)
        else:
            site(folder, name)
        code = 0
    except BaseException as error:
        print(f"{folder} {name}: {type(error).__name__}: {error}", file=sys.stderr)
    finally:
        os._exit(code)


def unpaid(folder: Path, ledger: str = "{}.jsonl") -> int:
    """Messages that left and are not in their ledger, which is named after the site, sealed with these bytes."""
    gone = left(folder)  # read before the ledgers: sites go on meanwhile
    ledgers = {}
    for name in {line[0] for line in gone}:
        data = (folder / ledger.format(name)).read_bytes()
        ledgers[name] = parse(data[: data.rfind(b"\n") + 1])
    return sum(ledgers[name].digest(message_id) != digest for name, message_id, digest in gone)


def charged_twice(history: History, kills: int) -> int:
    """Charges beyond one a message, and one more for each of its site's kills and recovered lines."""
    seals = Counter(entry.message_id for entry in history if isinstance(entry, Sealed))
    recovered = sum(isinstance(entry, Recovered) for entry in history)
    again = sum(count - 1 for count in seals.values())
    return again + max(0, len(history.events) - len(seals) - kills - recovered)


def check_end(folder: Path, kills: Counter[str], seen: Counter[str]) -> None:
    """All that must hold when a run has ended; counts what does not.

    Raises:
        AssertionError, LedgerError, ReleaseError: the release does not verify.
    """
    release = Release.load(folder / "release")
    release.verify()
    assert set(release.ledgers) == set(NAMES)
    for name in NAMES:
        history = parse((folder / f"{name}.jsonl").read_bytes())
        seals = {entry.message_id for entry in history if isinstance(entry, Sealed)}
        seen["charged twice"] += charged_twice(history, kills[name])
        seen["charges that a kill wasted"] += len(history.events) - len(seals)
        used = release.card["clients"][name]["messages_used"]
        seen["messages used"] += used
        assert used <= len(seals)
    seen["runs"] += 1


def killed_runs(kills: int, chance: random.Random, seen: Counter[str], progress: Callable[[str], None]) -> None:
    """Runs until so many kills have hit."""
    while seen["kills"] < kills:
        with fresh() as name:
            folder, own = Path(name), Counter[str]()
            alive = {who: life(folder, who) for who in PROCESSES}
            try:
                while True:
                    time.sleep(chance.uniform(0, 0.3))
                    done, status = os.waitpid(alive[SERVER], os.WNOHANG)
                    if done:
                        assert status == 0, "the server failed"
                        del alive[SERVER]
                        break
                    if seen["kills"] == kills:
                        continue
                    victim = chance.choice(PROCESSES)
                    os.kill(alive[victim], signal.SIGKILL)
                    os.waitpid(alive.pop(victim), 0)
                    own[victim] += 1
                    seen.update(["kills", f"of them {'the server' if victim == SERVER else 'a site'}"])
                    seen["unpaid"] += unpaid(folder)
                    alive[victim] = life(folder, victim)
            finally:
                for process in alive.values():
                    os.kill(process, signal.SIGKILL)
                    os.waitpid(process, 0)
            seen["unpaid"] += unpaid(folder)
            check_end(folder, own, seen)
            progress(f"{seen['kills']} kills, {seen['runs']} runs")


def main() -> None:
    """Run, and print one line; the exit status is 1 where a ledger is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, metavar="N", help="(default 100)")
    parser.add_argument("--seed", type=int, default=0, help="of moments and victims (default 0)")
    options = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a process whose autograd has seen a GPU cannot be forked
    torch.set_num_threads(1)
    logging.disable()
    with fresh() as name:  # late imports and caches, once for all lives
        federate(Path(name))
    start, seen = time.monotonic(), Counter({"unpaid": 0, "charged twice": 0, "kills": 0})  # printed in this order
    chance = random.Random(options.seed)  # noqa: S311 - when and whom to kill is public
    killed_runs(options.kills, chance, seen, lambda line: print(line, file=sys.stderr))
    print(", ".join(f"{count} {what}" for what, count in seen.items()) + f"; {time.monotonic() - start:.0f} s")
    sys.exit(bool(seen["unpaid"] or seen["charged twice"]))


if __name__ == "__main__":
    main()
