"""How the demonstration's knobs were chosen: on digits held out of the training set; the test set stays unread.

    python benchmarks/choose_demo.py [SPLITS]

Each split puts a quarter of the training images aside, distils the rest from five clients at epsilon 8 (and without
privacy), and scores fresh networks on the images put aside.  Prints mean and spread over splits and networks.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from typing import Any

import torch

from private_distdd import DistDD, ImageDataset, NotPrivateWarning, Privacy, dirichlet_split, evaluate, load_dataset

CANDIDATES: dict[str, dict[str, Any]] = {
    "random networks, all messages remembered": {"reinit_every": 1, "network_steps": 0, "memory": 20},
    "  newest message only": {"reinit_every": 1, "network_steps": 0, "memory": 1},
    "  constant rate": {"reinit_every": 1, "network_steps": 0, "memory": 20, "matching_schedule": "constant"},
    "  40 rounds": {"reinit_every": 1, "network_steps": 0, "memory": 40, "rounds": 40},
    "  layer-wise cosine": {"reinit_every": 1, "network_steps": 0, "memory": 20, "distance": "layer_cosine"},
    "networks trained 10 steps a round, new every 5": {"reinit_every": 5, "network_steps": 10, "memory": 20},
}
COMMON: dict[str, Any] = {
    "ipc": 10,
    "rounds": 20,
    "matching_steps": 25,
    "network_rate": 0.1,
    "model_args": {"width": 16},
}


def score(knobs: dict[str, Any], privacy: Privacy | None, split: int) -> list[float]:
    """Accuracies of two networks on the images that this split puts aside."""
    train, _ = load_dataset("digits")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(1000 + split))
    held, kept = order[: len(order) // 4], order[len(order) // 4 :]
    parts = [ImageDataset(train.images[part], train.labels[part], train.info) for part in (kept, held)]
    method = DistDD(**{**COMMON, **knobs}, privacy=privacy, seed=split)
    release = method.fit(dirichlet_split(parts[0], 5, seed=split))
    return list(evaluate(release.dataset, parts[1], model_args={"width": 32}, seeds=range(2)).accuracies)


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", NotPrivateWarning)
    splits = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    for name, knobs in CANDIDATES.items():
        line = f"{name:50}"
        for privacy in (Privacy(target_epsilon=8.0, delta=1e-5), None):
            started = time.process_time()
            found = [accuracy for split in range(splits) for accuracy in score(knobs, privacy, split)]
            seconds = (time.process_time() - started) / splits
            label = "epsilon 8" if privacy else "not private"
            line += f"  {label} {statistics.fmean(found):.1%} ± {statistics.stdev(found):.1%} ({seconds:.0f} s)"
        print(line, flush=True)


if __name__ == "__main__":
    main()
