"""The pictures of docs/gallery.md: S by each method without privacy, at epsilon 10 and at epsilon 1.

    python benchmarks/gallery.py --data ROOT --pictures docs/images

10,000 images of MNIST, drawn once by a public seed, over 10 clients at Dirichlet 0.5; IPC 10, delta 1e-5, seed 0.
A line of JSON is printed for each S as soon as it is there.  `--score` also trains one small network on each S
(ConvNet-3 of width 32, 100 epochs) and tests it on the test set, once.  `--quick` takes digits and few steps.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from PIL import Image

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
PIXELS = functools.partial(DistDD, parametrisation="pixels")  # as it is without privacy anyway
METHODS: dict[str, Any] = {"distdd": DistDD, "distdd-pixels": PIXELS, "collabdm": CollabDM, "feddgm": FedDGM}
# Knobs by method, with and without privacy.
KNOBS: dict[str, dict[bool, dict[str, Any]]] = {
    "distdd": {
        False: {"rounds": 30, "model_args": {"width": 16}},
        True: {"rounds": 50, "matching_steps": 20, "memory": 50, "model_args": SMALL},
    },
    "collabdm": {either: {"networks": 8, "matching_steps": 300} for either in (False, True)},
    "feddgm": {
        False: {"starts": 4, "surrogate_steps": 20, "learning_rate": 0.1, "batch_size": 64, "matching_steps": 100},
        True: {"starts": 4, "matching_steps": 100},
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
    parser.add_argument("--score", action="store_true")
    parser.add_argument("--quick", action="store_true", help="digits and few steps: to see that it works")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", NotPrivateWarning)
    train, test = load_dataset("digits") if options.quick else load_dataset("mnist", root=options.data)
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:LIMIT]
    train = ImageDataset(train.images[chosen], train.labels[chosen], train.info)
    for name in options.methods:
        for epsilon in EPSILONS[1:] if name == "distdd-pixels" else EPSILONS:
            print(json.dumps(picture(options, name, epsilon, train, test)), flush=True)


def picture(
    options: argparse.Namespace, name: str, epsilon: float | None, train: ImageDataset, test: ImageDataset
) -> dict[str, Any]:
    """Write one S as a picture, and say what it cost and, where that was asked, how well a network trains on it."""
    kind = name.partition("-")[0]
    knobs = KNOBS[kind][epsilon is not None] | (TINY[kind] if options.quick else {})
    privacy = None
    if epsilon is not None:  # FedDGM's steps are divided by about as many examples as a client's coins take
        steps = {} if name == "collabdm" else {"sample_rate": RATE}
        divisor = {"divisor": RATE * len(train) / CLIENTS} if name == "feddgm" else {}
        privacy = Privacy(target_epsilon=epsilon, delta=1e-5, **steps, **divisor)
    begun = time.process_time()
    clients = dirichlet_split(train, CLIENTS, alpha=0.5, seed=0)
    release = METHODS[name](ipc=10, privacy=privacy, seed=0, **knobs).fit(clients)
    seconds = time.process_time() - begun
    shown = Image.fromarray(release.dataset.grid()).convert("L")  # the preview's picture, which is grey for digits
    shown.save(options.pictures / f"gallery-{name}-{epsilon or 'none'}.png", optimize=True)
    found = {"method": name, "epsilon": epsilon, "claim": str(max(release.epsilon.values()))}
    found["cpu_seconds"] = round(seconds)
    if options.score:
        protocol = {"model_args": {"width": 32}, "epochs": 100, "batch_size": 64}
        found["accuracy"] = evaluate(release.dataset, test, seeds=[0], **protocol).mean
    return found


if __name__ == "__main__":
    main()
