"""What a client's answer takes in memory, beside what `ComputeLimits` reckons with: docs/limits.md.

    python benchmarks/answer_memory.py

One process a network, each with one answer of ten classes and 100 black images; the peak of its resident memory, less
what it was before.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from typing import Any

import torch

from private_distdd import Client, DatasetInfo, ImageDataset, ModelSpec, PrivacyPlan
from private_distdd.questions.class_gradients import ClassGradients
from private_distdd.wire.query import Query
from private_distdd.wire.run import Run

CASES: list[tuple[str, dict[str, Any], list[int]]] = [
    ("mlp", {"width": 128}, [1, 28, 28]),
    ("mlp", {"width": 1000}, [1, 28, 28]),
    ("convnet", {"width": 32}, [1, 28, 28]),
    ("convnet", {"width": 128}, [3, 32, 32]),
    ("convnet", {"width": 256}, [3, 32, 32]),
    ("convnet", {"width": 16}, [3, 128, 128]),
    ("lenet", {}, [3, 32, 32]),
    ("resnet", {"width": 32}, [3, 32, 32]),
]
MIB = 2**20


def resident() -> int:
    """Bytes that this process has in memory now (Linux)."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def measure(name: str, arguments: dict[str, Any], shape: list[int]) -> tuple[float, float]:
    """Bytes that one answer took, and bytes reckoned with."""
    torch.set_num_threads(1)
    info = DatasetInfo("black", 10, (shape[0], shape[1], shape[2]))
    run = Run("memory", info, PrivacyPlan(1.0, 1.0, 1.0, 1.0, 2, 1e-5))
    client = Client("client", ImageDataset(torch.zeros(100, *shape), torch.arange(100) % 10, info))
    client.enroll(run)

    def ask(server_round: int, spec: ModelSpec) -> dict[str, Any]:
        asked = {"model": spec.to_json(), "granularity": "class"}
        state = dict(spec.build(info.shape, 10, seed=0).state_dict())
        client.answer(Query(run.run_id, server_round, "class_gradients", asked, state, run.plan))
        return asked

    ask(0, ModelSpec("mlp", {"width": 8, "depth": 1}))  # imports and caches
    before = resident()
    asked = ask(1, ModelSpec(name, arguments))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return peak - before, ClassGradients.cost(asked, info).memory


def main() -> None:
    """Print a line a network."""
    if len(sys.argv) > 1:
        print(json.dumps(measure(*json.loads(sys.argv[1]))))
        return
    for case in CASES:
        done = subprocess.run(  # noqa: S603 - this very file
            [sys.executable, __file__, json.dumps(case)], capture_output=True, text=True, check=True
        )
        taken, reckoned = json.loads(done.stdout)
        name = f"{case[0]} {json.dumps(case[1])} {' x '.join(map(str, case[2]))}"
        print(f"{name:44} {taken / MIB:6.0f} MiB of {reckoned / MIB:6.0f}: {taken / reckoned:.2f}", flush=True)


if __name__ == "__main__":
    main()
