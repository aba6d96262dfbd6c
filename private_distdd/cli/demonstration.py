"""The demonstration on embedded data: what private distillation costs in accuracy, in one table."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from private_distdd.cli.options import print_json
from private_distdd.data.dataset import ImageDataset
from private_distdd.data.load import load_dataset
from private_distdd.evaluation import Evaluation, evaluate
from private_distdd.files import numbered
from private_distdd.methods.collabdm import CollabDM
from private_distdd.methods.distdd import DistDD
from private_distdd.privacy.plan import Privacy
from private_distdd.release.release import Release, require_new
from private_distdd.rounding import rounded_up
from private_distdd.simulation.splits import dirichlet_split

NUM_CLIENTS, IPC = 5, 10
PRIVACY = Privacy(target_epsilon=8.0, delta=1e-5, sample_rate=1.0, max_grad_norm=1.0)
# Chosen on images held out of the training set: `private-distdd sweep benchmarks/choose_demo.toml`.
ROUNDS, STEPS, WIDTH, EVALUATION_WIDTH = 20, 25, 16, 32
ONCE_STEPS = 500  # of CollabDM; its other knobs are its defaults


def method(privacy: Privacy | None, seed: int) -> DistDD:
    """The demonstration's DistDD, with or without privacy."""
    return DistDD(ipc=IPC, rounds=ROUNDS, model_args={"width": WIDTH}, matching_steps=STEPS, privacy=privacy, seed=seed)


def score(dataset: ImageDataset, test: ImageDataset, networks: int = 3, *, progress: bool = False) -> Evaluation:
    """Accuracy on real images of so many fresh networks trained on `dataset`."""
    given = {"width": EVALUATION_WIDTH}
    return evaluate(dataset, test, model_args=given, seeds=range(networks), progress=progress)


def run_demo(output: str | None, seed: int, *, as_json: bool = False, progress: bool = True) -> Release:
    """Print the table and write the release; a minute or two on a quiet core.

    Args:
        output: the release folder, or None for the first free demo-001, demo-002, ... below the current folder.
        seed: steers everything public.
        as_json: print the table as one JSON object, and nothing else on standard output.
        progress: show it on standard error.
    """
    console, folder = Console(quiet=as_json), require_new(output or numbered(Path(), "demo"))
    train, test = load_dataset("digits")
    console.print(
        f"scikit-learn's digits: {len(train)} training images at {NUM_CLIENTS} clients, {len(test)} test images; "
        f"S has {IPC} images a class"
    )
    rows: list[tuple[str, float, Evaluation]] = []

    def begin(name: str) -> str:
        if progress:
            print(name, file=sys.stderr)
        return name

    def end(name: str, cost: float, dataset: ImageDataset, networks: int = 3) -> None:
        rows.append((name, cost, score(dataset, test, networks, progress=progress)))

    # One network: each takes as long as all that follows, for a spread of some tenths of a point.
    end(begin("(a) all real images, one network"), math.inf, train, networks=1)
    end(begin(f"(b) {IPC * train.info.num_classes} random real images"), math.inf, _random_images(train, seed))
    name = begin("(c) S by DistDD")
    # Clients of their own, with ledgers of their own: what (c) gives away is not charged to (d), nor hidden by it.
    open_release = method(None, seed).fit(dirichlet_split(train, NUM_CLIENTS, math.inf, seed=seed), progress=progress)
    end(name, math.inf, open_release.dataset)
    name = begin(f"(d) S by DistDD, {ROUNDS} messages")
    clients = dirichlet_split(train, NUM_CLIENTS, math.inf, seed=seed)
    release = method(PRIVACY, seed).fit(clients, progress=progress, output=folder)
    end(name, _bill(release), release.dataset)
    name = begin("(e) S by CollabDM, one message")
    once = CollabDM(ipc=IPC, matching_steps=ONCE_STEPS, privacy=PRIVACY, seed=seed)
    shot = once.fit(dirichlet_split(train, NUM_CLIENTS, math.inf, seed=seed), progress=progress)
    end(name, _bill(shot), shot.dataset)
    table = Table("trained on", "epsilon of each client", "accuracy")
    for name, cost, result in rows:
        spread = f" ± {result.std:.1%}" if len(result.accuracies) > 1 else ""
        table.add_row(name, "not private" if math.isinf(cost) else rounded_up(cost, 3), f"{result.mean:.1%}{spread}")
    console.print(table)
    console.print(
        "Accuracy on the real test images, ± the spread over 3 networks. Epsilon for one labelled example of one "
        f"client, added or removed, at delta = {PRIVACY.delta:g}; local noise."
    )
    console.print(
        f"The release of (d), with its picture and card: {folder}/\nCheck it: private-distdd verify {folder}",
        soft_wrap=True,
    )
    if as_json:
        found = [{"trained_on": name, "epsilon": cost, "accuracies": result.accuracies} for name, cost, result in rows]
        print_json({"rows": found, "delta": PRIVACY.delta, "release": str(folder)})
    return release


def _bill(release: Release) -> float:
    """The largest claim among the clients."""
    return max(release.epsilon.values())


def _random_images(train: ImageDataset, seed: int) -> ImageDataset:
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    chosen = torch.cat([order[train.labels[order] == c][:IPC] for c in range(train.info.num_classes)])
    return ImageDataset(train.images[chosen], train.labels[chosen], train.info)
