"""Knobs for wine at epsilon 8, chosen on rows that are held out of its training part; the test part is never read.

Three clients, ten rows a class of S, an mlp; four splits with a run each, and fresh noise every time.  From 5 rounds on
nothing stood out of the noise between C = 0.3 and 1: examples/tables.py takes 0.3 and the fewest of these rounds.

python benchmarks/choose_tables.py
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from typing import Any

import torch

from private_distdd import CollabDM, DistDD, Privacy, dirichlet_split, evaluate, load_dataset
from private_distdd.data.normalised import split_off_test

torch.set_num_threads(1)
SEEDS = range(4)

train, _ = load_dataset("wine")
fitted, held_out = split_off_test(train.info.denormalise(train.images), train.labels, train.info)


def score(method: Callable[..., Any], **knobs: Any) -> str:
    """Mean accuracy on the rows held out, and its standard deviation over splits."""
    results = []
    for seed in SEEDS:
        release = method(ipc=10, model="mlp", seed=seed, **knobs).fit(dirichlet_split(fitted, 3, alpha=1.0, seed=seed))
        results.append(evaluate(release.dataset, held_out, model="mlp", seeds=range(2)).mean)
    return f"{statistics.mean(results):.1%} ± {statistics.stdev(results):.1%}"


def privacy(max_grad_norm: float) -> Privacy:
    return Privacy(target_epsilon=8.0, delta=1e-5, sample_rate=1.0, max_grad_norm=max_grad_norm)


print(f"{len(fitted)} rows in, {len(held_out)} held out; all rows: {evaluate(fitted, held_out, model='mlp')}")
for norm, rounds in itertools.product((0.3, 1.0, 3.0), (1, 5, 20)):
    knobs = {"rounds": rounds, "matching_steps": 25, "privacy": privacy(norm)}
    print(f"DistDD, C {norm}, {rounds} rounds: {score(DistDD, **knobs)}", flush=True)
for networks, frequencies, bandwidth in itertools.product((4, 32), (16, 64, 256), (0.5, 1.0)):
    knobs = {"networks": networks, "frequencies": frequencies, "bandwidth": bandwidth, "matching_steps": 500}
    shown = f"CollabDM, {networks} networks, {frequencies} frequencies, bandwidth {bandwidth}"
    print(f"{shown}: {score(CollabDM, privacy=privacy(1.0), **knobs)}", flush=True)
