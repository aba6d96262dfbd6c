"""The pictures of docs/gallery.md: S by DistDD, CollabDM and FedDGM without privacy, at epsilon 10 and at epsilon 1.

    python benchmarks/gallery.py --data ROOT --pictures docs/images

10,000 images of MNIST, drawn once by a public seed, over 10 clients at Dirichlet 0.5; IPC 10, delta 1e-5, seed 0.  One
small network (ConvNet-3 of width 32, 100 epochs) is trained on each S and tested on the test set, once.  A line of JSON
is printed for each S as soon as it is there, and a Markdown table at the end.  `--quick` takes digits and few steps.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from private_distdd import (
    CollabDM,
    DistDD,
    FedDGM,
    ImageDataset,
    NotPrivateWarning,
    Privacy,
    dirichlet_split,
    evaluate,
    load_dataset,
)

CLIENTS, LIMIT, RATE = 10, 10_000, 0.1
EPSILONS = (None, 10, 1)
SMALL = {"width": 8, "depth": 2}  # whose gradients noise does not drown
METHODS: dict[str, Any] = {"distdd": DistDD, "collabdm": CollabDM, "feddgm": FedDGM}
# Knobs by method, with and without privacy.
KNOBS: dict[str, dict[bool, dict[str, Any]]] = {
    "distdd": {
        False: {"rounds": 30, "model_args": {"width": 16}},
        True: {"rounds": 50, "matching_steps": 20, "memory": 50, "model_args": SMALL},
    },
    "collabdm": {either: {"networks": 12, "matching_steps": 600} for either in (False, True)},
    "feddgm": {
        False: {"starts": 8, "surrogate_steps": 40, "learning_rate": 0.05, "batch_size": 64, "matching_steps": 200},
        True: {"starts": 8, "matching_steps": 200},
    },
}
TINY: dict[str, dict[str, Any]] = {
    "distdd": {"rounds": 2, "matching_steps": 2},
    "collabdm": {"networks": 2, "matching_steps": 10},
    "feddgm": {"starts": 2, "surrogate_steps": 3, "student_steps": 2, "matching_steps": 5},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="ROOT", help="folder of MNIST, as torchvision leaves it")
    parser.add_argument("--pictures", type=Path, default=Path("."), metavar="FOLDER")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--quick", action="store_true", help="digits and few steps: to see that it works")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", NotPrivateWarning)
    train, test = load_dataset("digits") if options.quick else load_dataset("mnist", root=options.data)
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:LIMIT]
    train = ImageDataset(train.images[chosen], train.labels[chosen], train.info)
    rows = [(name, [picture(options, name, epsilon, train, test) for epsilon in EPSILONS]) for name in options.methods]
    print("| | not private | \u03b5 = 10 | \u03b5 = 1 |\n| --- | --- | --- | --- |")
    for name, accuracies in rows:
        print(f"| {METHODS[name].name} |", " | ".join(f"{accuracy:.1%}" for accuracy in accuracies), "|")


def picture(
    options: argparse.Namespace, name: str, epsilon: float | None, train: ImageDataset, test: ImageDataset
) -> float:
    """Write one S as a picture, and return the accuracy of a network that was trained on it."""
    knobs = KNOBS[name][epsilon is not None] | (TINY[name] if options.quick else {})
    privacy = None
    if epsilon is not None:  # FedDGM's steps are divided by about as many examples as a client's coins take
        steps = {} if name == "collabdm" else {"sample_rate": RATE}
        divisor = {"divisor": RATE * len(train) / CLIENTS} if name == "feddgm" else {}
        privacy = Privacy(target_epsilon=epsilon, delta=1e-5, **steps, **divisor)
    begun = time.process_time()
    clients = dirichlet_split(train, CLIENTS, alpha=0.5, seed=0)
    release = METHODS[name](ipc=10, privacy=privacy, seed=0, **knobs).fit(clients)
    seconds = time.process_time() - begun
    release.dataset.preview(options.pictures / f"gallery-{name}-{epsilon or 'none'}.png")
    protocol = {"model_args": {"width": 32}, "epochs": 2 if options.quick else 100, "batch_size": 64}
    accuracy = evaluate(release.dataset, test, seeds=[0], **protocol).mean
    found = {"method": name, "epsilon": epsilon, "accuracy": accuracy, "cpu_seconds": round(seconds)}
    print(json.dumps(found | {"claim": str(max(release.epsilon.values()))}), flush=True)
    return accuracy


if __name__ == "__main__":
    main()
