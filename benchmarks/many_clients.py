"""A round of the same images over ever more simulated clients: python benchmarks/many_clients.py.

60,000 grey images of 28 x 28, q = .02, ConvNet-3 of width 8, with privacy: seconds of one round, and the peak
of the process's memory in MB, less the messages' own size.  `noise` is what the cryptographic noise alone takes, drawn
message by message: it grows with the number of messages, whoever makes them.  One process a row.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

import torch
from side_by_side import Benchmark, Spread

from private_distdd import Client, DatasetInfo, ImageDataset, ModelSpec, PrivacyPlan
from private_distdd.engines.in_process import InProcess
from private_distdd.privacy.mechanism import LATTICE
from private_distdd.privacy.randomness import SystemRandomness
from private_distdd.server.reading import Wanted
from private_distdd.server.session import Session
from private_distdd.wire.query import Query
from private_distdd.wire.run import Run

IMAGES, RATE, SHAPE = 60_000, 0.02, (1, 28, 28)


def measure(count: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of rounds and of their noise, and MB at the peak, of so many clients."""
    torch.set_num_threads(1)
    info, spec = DatasetInfo("noise", 10, SHAPE), ModelSpec("convnet", {"width": 8})
    images = torch.randn((IMAGES, *SHAPE), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(IMAGES) % 10
    run = Run("speed", info, PrivacyPlan(1.0, RATE, 1.0, 1.0, 100, delta=1e-7))
    parts = zip(images.tensor_split(count), labels.tensor_split(count), strict=True)
    clients = [Client(f"c{i}", ImageDataset(own, classes, info)) for i, (own, classes) in enumerate(parts)]
    session = Session(InProcess(clients), run)
    state = dict(spec.build(SHAPE, 10, seed=0).state_dict())
    arguments = {"model": spec.to_json(), "granularity": "class"}
    dimension = sum(tensor.numel() for tensor in state.values())
    seconds, noise, before = list[float](), list[float](), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for server_round in range(repeats + 1):
        query = Query(run.run_id, server_round, "class_gradients", arguments, state, run.plan)
        start = time.perf_counter()
        answers = session.ask(dict.fromkeys(session.active, Wanted(query, (10, dimension))))
        seconds.append(time.perf_counter() - start)
        assert len(answers.messages) == count
        own = sum(len(message.data) for message in answers.messages) / 1e6
        del answers
        start = time.perf_counter()
        for _ in range(count):
            SystemRandomness().stream().rounded_normals((10, dimension), float(LATTICE))
        noise.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {"seconds": seconds[1:], "noise": noise[1:], "memory": [peak - own], "before": [before / 1e3]}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(int(sys.argv[2]), int(sys.argv[3]))))
        sys.exit()
    benchmark = Benchmark("many_clients", "A round over 60,000 images, by clients")
    base: float | None = None
    for count in (10, 100, 1_000) if benchmark.quick else (10, 100, 1_000, 10_000):
        command = [sys.executable, __file__, "--measure", str(count), "1" if benchmark.quick else "3"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - this very file
        found = json.loads(done.stdout.splitlines()[-1])
        seconds, noise = Spread.of(found["seconds"]), Spread.of(found["noise"])
        base = base or seconds.median
        row = {"clients": count, "seconds": seconds, "noise": noise, "memory_mb": round(found["memory"][0])}
        benchmark.row(**row, times_10_clients=round(seconds.median / base, 2))
    benchmark.finish()
