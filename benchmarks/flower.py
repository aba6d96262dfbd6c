"""What Flower and the forwarder cost, and whether S is the same: PYTHONPATH=. python benchmarks/flower.py [--quick].

Three hospitals on this machine as in examples/flower, every process of its own, TLS and node authentication on:

- `once`: seconds from `flwr run` of CollabDM at epsilon 1 (its defaults) to the release verified, all processes up.
- `site`, `echo`: seconds a round of queries as DistDD sends (12 kB out, 115 kB back, three clients at once), where the
  ClientApp forwards to a site, and where it gives as many bytes back at once.  The server does nothing in between, and
  looks for replies as often.
- `--own`: the same with this library's SuperNodes (`private-distdd flower node`), but for the echo.
- `--kills N` alone: DistDD, run after run of 10 rounds, while at random moments a site or a SuperNode, chosen by
  chance, is killed (-9) and started again, N times.  Counted are messages that left and are not in their ledger, with
  these very bytes, and charges beyond what was answered and what a site's kills ended.
- `gap`: the largest difference between the pixels of S of DistDD, 5 rounds without noise, in one process and over
  Flower.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from side_by_side import Benchmark, Spread
from site_kills import Noted, charged_twice, unpaid

from examples.flower.federation import COMMAND, Federation, Process
from private_distdd import Client, DistDD, Release, load_dataset
from private_distdd.privacy.ledger import parse
from private_distdd.site.config import SiteConfig
from private_distdd.site.daemon import Daemon

NAMES = ("hospital-a", "hospital-b", "hospital-c")
LONG = {"rounds": 10, "ipc": 1, "model_args": {"width": 16}, "matching_steps": 2, "deadline": 60.0}
OPEN = {"rounds": 5, "ipc": 1, "model_args": {"width": 16}, "matching_steps": 5}

ROUNDS = '''
"""Rounds and nothing else: how long each takes."""
import json, pathlib, time
from flwr.serverapp import ServerApp
from private_distdd import DatasetInfo, ModelSpec, PrivacyPlan
from private_distdd.engines.flower import FlowerEngine
from private_distdd.server.reading import Wanted
from private_distdd.server.session import Session
from private_distdd.wire.query import Query
from private_distdd.wire.run import Run

app = ServerApp()

@app.main()
def main(grid, context):
    info, spec = DatasetInfo("digits", 10, (1, 8, 8)), ModelSpec("convnet", {"width": 16})
    state = dict(spec.build(info.shape, 10, seed=0).state_dict())
    size = sum(tensor.numel() for tensor in state.values())
    run = Run("speed", info, PrivacyPlan(100.0, 1.0, 1.0, 1.0, 100, delta=1e-5))
    session, seconds, traffic = Session(FlowerEngine(grid, 3, patience=120.0), run), [], []
    for number in range(context.run_config["seed"]):
        query = Query(run.run_id, number, "class_gradients", {"model": spec.to_json(), "granularity": "class"}, state,
            run.plan)
        start = time.perf_counter()
        answers = session.ask(dict.fromkeys(session.active, Wanted(query, (10, size))))
        seconds.append(time.perf_counter() - start)
        assert len(answers.messages) == 3
    lengths = {"out": len(query.data), "back": len(answers.messages[0].data) + 3000}
    pathlib.Path(context.run_config["output"]).write_text(json.dumps({"seconds": seconds, **lengths}))
'''

ECHO_SERVER = '''
"""The same rounds by Flower alone."""
import json, pathlib, time
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()

@app.main()
def main(grid, context):
    lengths, seconds = json.loads(context.run_config["knobs"]), []
    while len(nodes := list(grid.get_node_ids())) < 3:
        time.sleep(0.2)
    for number in range(context.run_config["seed"]):
        start = time.perf_counter()
        content = RecordDict({"echo": ConfigRecord({"bytes": b"x" * lengths["out"], "back": lengths["back"]})})
        waiting = set(grid.push_messages([Message(content, node, "query") for node in nodes]))
        while True:
            waiting -= {message.metadata.reply_to_message_id for message in grid.pull_messages(list(waiting))}
            if not waiting:
                break
            time.sleep(0.2)
        seconds.append(time.perf_counter() - start)
    pathlib.Path(context.run_config["output"]).write_text(json.dumps({"seconds": seconds}))
'''

ECHO_CLIENT = """
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.query()
def query(message, context):
    length = message.content["echo"]["back"]
    return Message(RecordDict({"echo": ConfigRecord({"bytes": b"x" * length})}), reply_to=message)
"""


def owner(name: str, home: Path) -> Client:
    """A hospital of the comparison, which gives exact statistics."""
    train, _ = load_dataset(str(home / "data.npz"), num_classes=10, name="digits")
    return Client(name, train, allow_without_privacy=True)


def measure(benchmark: Benchmark, federation: Federation, own: bool) -> None:
    """All of it; of our own SuperNodes no echo, for they run no ClientApp."""
    federation.prepare()
    federation.start_server()
    sites = [federation.start_site(name) for name in NAMES]
    for name in NAMES:
        federation.admit(name)
    for process in [*sites, *(federation.start_node(name, own=own) for name in NAMES)]:
        process.wait_for("listening|SuperNode ID")
    seconds = []
    for _ in range(1 if benchmark.quick else 3):
        start = time.perf_counter()
        run_id = federation.submit(federation.app, {})
        federation.wait(run_id)
        federation.run([*COMMAND, "verify", str(federation.release(run_id))])
        seconds.append(time.perf_counter() - start)
    benchmark.row(case="once", seconds=Spread.of(seconds))

    count = 5 if benchmark.quick else 15
    for name, files in {
        "rounds": {"server_app": ROUNDS},
        "echo": {"server_app": ECHO_SERVER, "client_app": ECHO_CLIENT},
    }.items():
        shutil.copytree(federation.app, federation.server / name, ignore=shutil.ignore_patterns("releases"))
        for module, text in files.items():
            (federation.server / name / f"{module}.py").write_text(text)

    def rounds(app: str, **config: object) -> dict[str, Any]:
        output = federation.server / app / "found.json"
        federation.wait(federation.submit(federation.server / app, {"seed": count, "output": str(output), **config}))
        found: dict[str, Any] = json.loads(output.read_text())
        return found

    found = rounds("rounds")
    site = Spread.of(found["seconds"][1:])
    benchmark.row(case="site", seconds=site, out=found["out"], back=found["back"])
    if not own:
        echo = Spread.of(rounds("echo", knobs={"out": found["out"], "back": found["back"]})["seconds"][1:])
        benchmark.row(case="echo", seconds=echo, out=found["out"], back=found["back"])
        benchmark.row(case="site / echo", ratio=round(site.median / echo.median, 3))

    for process in sites:
        process.end()
    benchmark.row(case="gap", largest=gap(federation))


def killed(federation: Federation, kills: int) -> str:
    """Runs during which processes die; what was counted."""
    chance, seen, own = random.Random(0), Counter[str](), Counter[str]()  # noqa: S311 - when to kill is public

    def start(name: str, kind: str) -> Process:
        home = federation.folder / name
        if kind == "site":
            process = federation.begin("site", [sys.executable, __file__, "--noted", name, str(home)], home)
            process.wait_for("listening")
            return process
        for _ in range(20):  # Flower refuses its key until it has noticed that it died
            with contextlib.suppress(RuntimeError):
                process = federation.start_node(name)
                process.wait_for("SuperNode ID", 30.0)
                return process
            time.sleep(5)
        raise RuntimeError(f"the SuperNode of {name} is not let in")

    federation.prepare()
    federation.start_server()
    for name in NAMES:
        federation.admit(name)
    alive = {(name, kind): start(name, kind) for name in NAMES for kind in ("site", "supernode")}
    while seen["kills"] < kills:
        run_id = federation.submit(
            federation.app, {"method": "distdd", "privacy": {"noise_multiplier": 20.0}, "knobs": LONG}
        )
        while not federation.status(run_id).startswith("finished"):
            time.sleep(chance.uniform(0, 15))
            if seen["kills"] < kills:
                victim = chance.choice(sorted(alive))
                alive[victim].kill()
                own[victim[0]] += victim[1] == "site"
                seen.update(["kills", f"of a {victim[1]}"])
                seen["unpaid"] += unpaid(federation.folder, "{}/ledger.jsonl")
                alive[victim] = start(*victim)
        federation.wait(run_id)
        federation.run([*COMMAND, "verify", str(federation.release(run_id))])
        seen["runs"] += 1
        bills = Release.load(federation.release(run_id)).card["clients"].values()
        seen["messages used"] += sum(bill["messages_used"] for bill in bills)
    seen["unpaid"] += unpaid(federation.folder, "{}/ledger.jsonl")
    for name in NAMES:
        history = parse((federation.folder / name / "ledger.jsonl").read_bytes())
        seen["charged twice"] += charged_twice(history, own[name])
    return ", ".join(f"{count} {what}" for what, count in seen.items())


def gap(federation: Federation) -> float:
    """Of S in one process, and over Flower, where no site runs yet."""
    for name in NAMES:
        home = federation.folder / name
        federation.begin("open", [sys.executable, __file__, "--owner", name, str(home)], home).wait_for("listening")
    run_id = federation.submit(federation.app, {"method": "distdd", "privacy": None, "knobs": OPEN})
    federation.wait(run_id)
    here = DistDD(privacy=None, **OPEN).fit([owner(name, federation.folder / name) for name in NAMES])
    there = Release.load(federation.release(run_id))
    return float((here.dataset.images - there.dataset.images).abs().max())


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--noted"]:
        config = SiteConfig.read(Path(sys.argv[3]) / "site.toml")
        noted = Noted(config.client(), config.socket, Path(sys.argv[3]).parent / "left.txt")
        print("listening", flush=True)
        with noted.ended_by_signals():
            noted.serve()
        sys.exit()
    if sys.argv[1:2] == ["--kills"]:
        with tempfile.TemporaryDirectory(prefix="pdd-") as folder, Federation(Path(folder), NAMES, 1e4) as federation:
            print(killed(federation, int(sys.argv[2])))
        sys.exit()
    if sys.argv[1:2] == ["--owner"]:
        daemon = Daemon(owner(sys.argv[2], Path(sys.argv[3])), Path(sys.argv[3]) / "site.sock")
        print("listening", flush=True)
        with daemon.ended_by_signals():
            daemon.serve()
        sys.exit()
    own = "--own" in sys.argv
    if own:
        sys.argv.remove("--own")
    benchmark = Benchmark("flower-own" if own else "flower", "Flower, the forwarder, and S")
    with tempfile.TemporaryDirectory(prefix="pdd-") as folder, Federation(Path(folder), NAMES) as federation:
        measure(benchmark, federation, own)
    benchmark.finish()
