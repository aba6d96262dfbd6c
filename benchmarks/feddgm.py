"""FedDGM, CollabDM and DistDD in pixels, in a random generator and in a public one; and FedAvg, at equal epsilon.

    python benchmarks/feddgm.py --data ROOT --dataset mnist --device cuda --epsilons none,10,1 --seeds 0,1,2

10 clients, Dirichlet 0.5, IPC 10, delta 1e-5; S is scored by fresh ConvNets on the training images that are held out,
or, with `--test`, on the test set, once.  The rows of one seed of FedDGM and of CollabDM match the same messages, which
are asked for once.  The public generator is trained on Fashion-MNIST for MNIST, and on MNIST for Fashion-MNIST; there
is no such row for other data sets.  A cell is one epsilon and one seed of one method, and `--processes` of them run
side by side.

A Markdown table is printed, and FILE of `--json` holds every cell: accuracies, seconds, bytes a client sent, epsilon by
the card, settings.  Knobs are replaced by `--feddgm`, `--distdd`, `--collabdm` and `--fedavg`, as JSON.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from private_distdd import (
    Client,
    CollabDM,
    DistDD,
    FedAvg,
    FedDGM,
    ImageDataset,
    NotPrivateWarning,
    Privacy,
    Release,
    dirichlet_split,
    evaluate,
    load_dataset,
    public_generator,
)
from private_distdd.protocol import accuracy

SMALL = {"width": 8, "depth": 2}
PUBLIC = {"mnist": "fashionmnist", "fashionmnist": "mnist"}  # what the public generator is trained on
RATE = 0.1  # q, of the methods that take steps

# Knobs by method and epsilon; "usual" holds for those that are not named.
KNOBS: dict[str, dict[str, dict[str, Any]]] = {
    "feddgm": {
        "none": {
            "starts": 20,
            "surrogate_steps": 40,
            "learning_rate": 0.05,
            "batch_size": 64,
            "matching_steps": 400,
        },
        "10": {"starts": 20, "surrogate_steps": 7, "matching_steps": 400},
        "usual": {"starts": 20, "surrogate_steps": 5, "matching_steps": 300},
    },
    "distdd": {
        "none": {"rounds": 100, "model_args": {"width": 32}},
        "usual": {"rounds": 50, "matching_steps": 20, "memory": 50, "model_args": SMALL},
    },
    "collabdm": {"usual": {}},
    "fedavg": {"usual": {"rounds": 20, "local_steps": 5, "learning_rate": 1.0, "model_args": SMALL}},
}
TINY: dict[str, dict[str, Any]] = {  # of --quick
    "feddgm": {"starts": 2, "surrogate_steps": 3, "segment": None, "student_steps": 3, "matching_steps": 20},
    "distdd": {"rounds": 3, "matching_steps": 2, "model_args": SMALL},
    "collabdm": {"networks": 2, "matching_steps": 20},
    "fedavg": {"rounds": 2, "local_steps": 2},
}
CLASSES: dict[str, Any] = {"feddgm": FedDGM, "distdd": DistDD, "collabdm": CollabDM, "fedavg": FedAvg}
ROWS = {"pixels": "pixels", "convolutional": "random generator", "public": "public generator"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="ROOT", help="folder of the data sets")
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--device", default="cpu", help="of server, clients and scores")
    parser.add_argument("--epsilons", default="none,10,1", type=_listed)
    parser.add_argument("--seeds", default="0,1,2", type=_listed)
    parser.add_argument("--methods", default=",".join(CLASSES), type=_listed)
    parser.add_argument("--generators", default=",".join(ROWS), type=_listed, help="rows of each method but FedAvg")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--test", action="store_true", help="score the test set, and train on all the other images")
    parser.add_argument("--width", type=int, default=128, help="of the ConvNets that are trained on S")
    parser.add_argument("--augment", action="store_true", help="networks are trained on S with shifts")
    parser.add_argument("--limit", type=int, help="training images, over all clients")
    parser.add_argument("--quick", action="store_true", help="4,000 images, few steps: to see that it works")
    parser.add_argument("--json", type=Path, default=Path("feddgm.json"), metavar="FILE")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="of every S")
    for name in CLASSES:
        parser.add_argument(f"--{name}", type=json.loads, default={}, metavar="JSON", help="knobs")
    parser.add_argument("--privacy", type=json.loads, default={}, metavar="JSON", help="of the methods that take steps")
    options = parser.parse_args()
    if options.quick:
        options.limit = options.limit or 4000
    cells = [(m, e, int(s)) for e in options.epsilons for s in options.seeds for m in options.methods]
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        found = []
        for rows in pool.map(functools.partial(cell, options), cells):
            found += rows
            options.json.write_text(
                json.dumps({"options": vars(options) | {"json": "", "pictures": ""}, "cells": found}, indent=1) + "\n"
            )
    print(table(found))


_SHOWN = ("row", "epsilon", "seed", "on S", "network", "seconds", "sent")


def cell(options: argparse.Namespace, which: tuple[str, str, int]) -> list[dict[str, Any]]:
    """One method at one epsilon and seed: a row for each parametrisation."""
    method, epsilon, seed = which
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", NotPrivateWarning)
    train, scored = _data(options)
    make_client = functools.partial(Client, device=options.device)
    federation = functools.partial(dirichlet_split, train, 10, alpha=0.5, seed=seed, make_client=make_client)
    clients = federation()
    knobs = KNOBS[method].get(epsilon, KNOBS[method]["usual"])
    knobs = {**knobs, **(TINY[method] if options.quick else {}), **getattr(options, method)}
    if method != "fedavg":
        knobs = {"ipc": 10, **knobs}
    privacy = None
    if epsilon != "none":
        mechanism = {} if method == "collabdm" else {"sample_rate": RATE, **options.privacy}
        if method in ("feddgm", "fedavg"):  # the examples that a client's coins take, about
            mechanism = {"divisor": mechanism["sample_rate"] * len(train) / len(clients), **mechanism}
        privacy = Privacy(target_epsilon=float(epsilon), delta=1e-5, **mechanism)
    elif method == "fedavg":
        knobs = {"learning_rate": 0.1, **{key: value for key, value in knobs.items() if key != "learning_rate"}}
    make = functools.partial(CLASSES[method], privacy=privacy, device=options.device, seed=seed)
    if method == "fedavg":
        return [_row(options, which, CLASSES[method].name, make(**knobs), clients, scored)]
    names = [name for name in options.generators if name != "public" or options.dataset in PUBLIC]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(names):
            begun = time.perf_counter()
            generator = name
            if name == "public":
                generator = _public(options.dataset, options.data, options.quick, options.device, seed)
            spent = time.perf_counter() - begun
            own = make(**knobs, parametrisation=generator)
            again: dict[str, Any] = {"checkpoint": folder, "resume": bool(number)}
            if method == "distdd":  # its messages follow from S: others each time, of clients that never sent any
                again, clients = {}, federation()
            row = _row(options, which, f"{CLASSES[method].name}, {ROWS[name]}", own, clients, scored, **again)
            rows.append(row | {"seconds": round(row["seconds"] + spent, 1)})
    return rows


def _row(
    options: argparse.Namespace,
    which: tuple[str, str, int],
    name: str,
    method: Any,
    clients: list[Client],
    scored: ImageDataset,
    **checkpoint: Any,
) -> dict[str, Any]:
    begun = time.perf_counter()
    release: Release = method.fit(clients, **checkpoint)
    seconds = time.perf_counter() - begun
    found: dict[str, Any] = {"row": name, "epsilon": which[1], "seed": which[2], "seconds": round(seconds, 1)}
    found |= {"on S": None, "network": None}
    found["sent"] = max(counts["sent"] for counts in release.traffic.values())
    found["claim"] = str(max(release.epsilon.values()))
    if release.teacher is not None:
        network = release.teacher.build().to(options.device)
        found["network"] = accuracy(network, scored, device=options.device)
    if release.synthetic is not None:
        if options.pictures:
            file = "-".join([*name.lower().replace(",", "").split(), *map(str, which[1:])])
            release.dataset.preview(options.pictures / f"{file}.png")
        own = {"epochs": 20 if options.quick else 300, "augment": options.augment}
        own["model_args"] = {"width": 16 if options.quick else options.width}
        found["on S"] = evaluate(release.dataset, scored, seeds=[0], device=options.device, **own).mean
    print(json.dumps({key: found[key] for key in _SHOWN}), flush=True)  # at once: a later row may not end
    return found | {"settings": release.card["method"]["settings"]}


def _data(options: argparse.Namespace) -> tuple[ImageDataset, ImageDataset]:
    """What the clients hold, and what is scored."""
    train, test = load_dataset(options.dataset, root=options.data)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(7))
    if not options.test:
        held = min(5000, len(train) // 4)
        test, order = _some(train, order[:held]), order[held:]
    return _some(train, order[: options.limit]), test


def _some(dataset: ImageDataset, chosen: torch.Tensor) -> ImageDataset:
    return ImageDataset(dataset.images[chosen], dataset.labels[chosen], dataset.info)


@functools.cache  # a process trains it once a seed
def _public(dataset: str, root: str, quick: bool, device: str, seed: int) -> Any:
    public, _ = load_dataset(PUBLIC[dataset], root=root)
    if quick:
        public = _some(public, torch.arange(2000))
    return public_generator(public, epochs=1 if quick else 3, seed=seed, device=device)


def table(rows: list[dict[str, Any]]) -> str:
    """Means over the seeds, and the spread of the accuracies."""
    lines = ["| method | epsilon | ConvNet-3 on S | network | seconds | kB sent by a client |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for name, epsilon in dict.fromkeys((row["row"], row["epsilon"]) for row in rows):
        own = [row for row in rows if (row["row"], row["epsilon"]) == (name, epsilon)]
        shown = [_spread([row[key] for row in own if row[key] is not None]) for key in ("on S", "network")]
        seconds, sent = (statistics.fmean(row[key] for row in own) for key in ("seconds", "sent"))
        lines.append(f"| {name} | {epsilon} | {' | '.join(shown)} | {seconds:.0f} | {sent / 1000:,.0f} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.1f}{spread}"


def _listed(text: str) -> list[str]:
    return text.split(",")


if __name__ == "__main__":
    main()
