"""Trials on S beside the same trials by repeated FedAvg: do they agree, and from how many on does S cost less?"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich import print
from rich.table import Table
from scipy.stats import spearmanr

from private_distdd import Client, FedAvg, ImageDataset, SyntheticDataset, evaluate
from private_distdd.evaluation import accuracy
from private_distdd.release.release import Release


def arguments(doc: str | None, name: str) -> argparse.Namespace:
    """The command line of both; one thread of torch."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--trials", type=int)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--root")
    parser.add_argument("--output", type=Path, default=Path(f"{name}.json"))
    return parser.parse_args()


def search(objective: Callable[[Any], float], count: int) -> None:
    """So many trials, each chosen by those before it; seeded.

    Args:
        objective: from an `optuna.Trial`, which suggests knobs, to what is to be large.
        count: how many.
    """
    try:
        import optuna
    except ImportError:
        sys.exit("this example needs Optuna: pip install 'private-distdd[examples]'")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, count)


@dataclass(frozen=True)
class Trial:
    """One setting, scored twice.

    Args:
        knobs: what was tried.
        on_s: accuracy of networks trained on S, on the server's validation images; in [0, 1].
        by_fedavg: that of a network trained by FedAvg on the clients, on the same images.
        seconds_on_s: of the first, on the clock.
        seconds_by_fedavg: of the second.
        bytes_by_fedavg: sent and received by all clients together.
    """

    knobs: Mapping[str, Any]
    on_s: float
    by_fedavg: float
    seconds_on_s: float
    seconds_by_fedavg: float
    bytes_by_fedavg: int


def parts(train: ImageDataset) -> tuple[ImageDataset, ImageDataset]:
    """(what the clients share, the server's validation images): every fourth image is the server's."""
    own = torch.arange(len(train)) % 4 == 3
    theirs, mine = (ImageDataset(train.images[part], train.labels[part], train.info) for part in (~own, own))
    return theirs, mine


def traffic(release: Release) -> int:
    """Bytes that all clients sent and received."""
    return sum(client["sent"] + client["received"] for client in release.card["traffic"].values())


def timed_evaluation(s: SyntheticDataset, held: ImageDataset, **knobs: Any) -> tuple[float, float]:
    """(mean accuracy of two networks trained on S, seconds)."""
    begun = time.perf_counter()
    return evaluate(s, held, seeds=range(2), **knobs).mean, time.perf_counter() - begun


def federated(
    method: FedAvg, clients: Sequence[Client], held: ImageDataset
) -> tuple[float, float, int, torch.nn.Module]:
    """(accuracy of FedAvg's network, seconds, bytes of all clients, the network)."""
    begun = time.perf_counter()
    release = method.fit(clients)
    if release.teacher is None:
        raise SystemExit("FedAvg diverged: no network is left; lower its learning rate")
    network = release.teacher.build()
    return accuracy(network, held), time.perf_counter() - begun, traffic(release), network


def crossing(once: float, each_on_s: float, each_by_fedavg: float) -> int | None:
    """The least number of trials of which S costs less; None where it never does.

    Args:
        once: what distilling S, and one run of FedAvg with the winner, cost.
        each_on_s: what a trial on S costs.
        each_by_fedavg: what a trial by FedAvg costs.
    """
    if each_by_fedavg <= each_on_s:
        return None
    return max(1, math.floor(once / (each_by_fedavg - each_on_s)) + 1)


def report(
    trials: Sequence[Trial], distillation: tuple[float, int], winners: Mapping[str, float], output: Path, **more: Any
) -> None:
    """Print what was found, and write it as JSON.

    Args:
        trials: all of them.
        distillation: (seconds, bytes) of S.
        winners: test accuracies, by whose winner it is.
        output: the JSON file.
        more: other entries of it.
    """
    shown = Table(title="trials", title_justify="left")
    for name in ("setting", "on S", "by FedAvg"):
        shown.add_column(name, justify="left" if name == "setting" else "right")
    for trial in sorted(trials, key=lambda trial: -trial.on_s):
        knobs = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in trial.knobs.items())
        shown.add_row(knobs, f"{trial.on_s:.1%}", f"{trial.by_fedavg:.1%}")
    ranks = spearmanr([trial.on_s for trial in trials], [trial.by_fedavg for trial in trials])
    rank = float(ranks.statistic) if len(trials) > 2 else None  # of two it would be 1 or -1

    def mean(name: str) -> float:
        return sum(getattr(trial, name) for trial in trials) / len(trials)

    seconds, sent = distillation
    found = {
        "rank_correlation": rank,
        "test_accuracy": dict(winners),
        "distillation": {"seconds": seconds, "bytes": sent},
        "a_trial": {
            "seconds_on_s": mean("seconds_on_s"),
            "seconds_by_fedavg": mean("seconds_by_fedavg"),
            "bytes_by_fedavg": mean("bytes_by_fedavg"),
        },
        "cheaper_from_trials": {
            "bytes": crossing(sent + mean("bytes_by_fedavg"), 0.0, mean("bytes_by_fedavg")),
            "seconds": crossing(seconds + mean("seconds_by_fedavg"), mean("seconds_on_s"), mean("seconds_by_fedavg")),
        },
        **more,
    }
    print(shown)
    for name, value in found.items():
        print(f"{name.replace('_', ' ')}: {value}")
    text = json.dumps({**found, "trials": [asdict(trial) for trial in trials]}, indent=1)
    output.write_text(f"{text}\n", encoding="utf-8")
    print(f"report: {output}")
