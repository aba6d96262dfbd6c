"""Three hospitals and a server on one machine, each a process of its own: python -m examples.flower.run [--folder NEW].

CollabDM at epsilon 1; then DistDD, 10 rounds at epsilon 8, during which one hospital's site is killed and started
again.  Both releases are verified against the hospitals' fingerprints.  Four or five minutes on two cores; nothing is
left running, whatever happens.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from examples.flower.federation import COMMAND, Federation
from private_distdd import Release
from private_distdd.site.key import SiteKey

NAMES = ("hospital-a", "hospital-b", "hospital-c")
COLLABDM = {"method": "collabdm", "privacy": {"target_epsilon": 1.0, "delta": 1e-5}, "knobs": {"ipc": 10}}
DISTDD = {
    "method": "distdd",
    "privacy": {"target_epsilon": 8.0, "delta": 1e-5},
    "knobs": {"rounds": 10, "ipc": 10, "model_args": {"width": 16}, "matching_steps": 10, "deadline": 60.0},
}
KILLED, AFTER, PAUSE = "hospital-b", 3, 5.0  # whose site dies, after how many of DistDD's queries, for how many seconds


class Story:
    """What happened, with seconds."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, float, str]] = []

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[list[str]]:
        """Time a step; what is put into the list is noted beside it."""
        began, notes = time.monotonic(), list[str]()
        print(f"{what} ...", flush=True)
        yield notes
        self._rows.append((what, time.monotonic() - began, "; ".join(notes)))

    def print(self) -> None:
        """The table."""
        table = Table("what happened", "seconds", "seen")
        table.columns[1].justify = "right"
        for what, seconds, notes in self._rows:
            table.add_row(what, f"{seconds:.1f}", notes)
        Console(width=None if sys.stdout.isatty() else 120).print(table)


def main(folder: Path) -> None:
    """The whole story, in a folder that exists.

    Raises:
        RuntimeError: something is not as it must be; nothing is left running.
    """
    story = Story()
    with Federation(folder, NAMES) as federation:
        with story.step("certificates, keys, data, configurations"):
            federation.prepare()
        with story.step("server up"):
            federation.start_server()
        with story.step("three sites up"):
            sites = {name: federation.start_site(name) for name in NAMES}
            for site in sites.values():
                site.wait_for("listening")
        with story.step("three SuperNodes admitted and up"):
            for name in NAMES:
                federation.admit(name)
            for node in [federation.start_node(name) for name in NAMES]:
                node.wait_for("SuperNode ID")
        with story.step("CollabDM at epsilon 1") as notes:
            once = federation.submit(federation.app, COLLABDM)
            federation.wait(once)
            notes.append(bill(federation.release(once)))
        with story.step("its release verified") as notes:
            notes.append(verify(federation, once))
        with story.step(f"DistDD at epsilon 8, until {KILLED} has answered {AFTER} queries"):
            before = len(federation.answers(KILLED))
            rounds = federation.submit(federation.app, DISTDD)
            wait_until(lambda: len(federation.answers(KILLED)) >= before + AFTER)
        with story.step(f"its site killed (-9), and started again {PAUSE:g} s later"):
            sites[KILLED].kill()
            time.sleep(PAUSE)
            federation.start_site(KILLED).wait_for("listening")
        with story.step("the other rounds of DistDD") as notes:
            federation.wait(rounds)
            times = federation.answers(NAMES[0])[1:]  # the first one was CollabDM's
            notes.append(
                f"{(times[-1] - times[0]) / (len(times) - 1):.1f} s a round; {bill(federation.release(rounds))}"
            )
        with story.step("its release verified") as notes:
            notes.append(verify(federation, rounds))
        with story.step("everything ended") as notes:
            federation.end()
            notes.append(f"processes left: {len(federation.left_over())}")
    story.print()
    if left := federation.left_over():
        raise RuntimeError(f"still running: {left}")


def wait_until(condition: Callable[[], bool], seconds: float = 300.0) -> None:
    """Look four times a second."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"it has not happened in {seconds:g} s")
        time.sleep(0.25)


def bill(release: Path) -> str:
    """What came of each client, and what it was charged for."""
    clients = Release.load(release).card["clients"]
    counts = [f"{name} {bill['messages_used']} ({bill['charges']})" for name, bill in clients.items()]
    return f"messages used (charged): {', '.join(counts)}"


def verify(federation: Federation, run_id: str) -> str:
    """`private-distdd verify --owners`, with the fingerprints that the hospitals told by another way."""
    owners = federation.server / "owners.json"
    owners.write_text(
        json.dumps({name: SiteKey.load(federation.folder / name / "key.pem").fingerprint for name in NAMES})
    )
    printed = federation.run([*COMMAND, "verify", str(federation.release(run_id)), "--owners", str(owners)])
    signed = printed.count("signed by its known owner")
    claim = next(line for line in printed.splitlines() if line.startswith("the claim: "))
    return f"{signed} ledgers signed by their known owners; {claim}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", metavar="NEW", help="keep everything there, logs too; else it is deleted")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended
    with contextlib.ExitStack() as stack:
        if options.folder is None:
            main(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pdd-"))))
        else:
            Path(options.folder).mkdir(mode=0o700)
            main(Path(options.folder).resolve())
