"""Trials on S beside the same trials by repeated FedAvg: do they agree, and from how many on does S cost less?"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich import print
from rich.table import Table
from scipy.stats import spearmanr
from torch import nn

from private_distdd import Client, FedAvg, ImageDataset, SyntheticDataset, evaluate
from private_distdd.protocol import accuracy
from private_distdd.release.release import Release


def arguments(doc: str | None, name: str) -> argparse.Namespace:
    """The command line of both; one thread of torch.  What would fail at the end is refused here."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--trials", type=int)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--root")
    parser.add_argument("--output", type=Path, default=Path(f"{name}.json"))
    options = parser.parse_args()
    if options.trials is not None and options.trials < 1:
        parser.error(f"--trials {options.trials}; allowed: 1 or more")
    if not options.output.parent.is_dir():
        parser.error(f"--output {options.output}: there is no such folder")
    if importlib.util.find_spec("optuna") is None:
        parser.error("this example needs Optuna: pip install 'private-distdd[examples]'")
    return options


@dataclass(frozen=True)
class Trial:
    """One setting, scored twice.

    Args:
        knobs: what was tried.
        on_s: accuracy of networks trained on S, on the server's validation images; in [0, 1].
        seconds_on_s: of it, on the clock.
        by_fedavg: accuracy of a network trained by FedAvg on the clients, on the same images.
        seconds_by_fedavg: of it.
        bytes_by_fedavg: sent and received by all clients together.
        network: the one by FedAvg; in no report.
    """

    knobs: Mapping[str, Any]
    on_s: float
    seconds_on_s: float
    by_fedavg: float
    seconds_by_fedavg: float
    bytes_by_fedavg: int
    network: nn.Module


def search(
    suggest: Callable[[Any], dict[str, Any]], score: Callable[[dict[str, Any]], Trial], count: int
) -> list[Trial]:
    """Trials of so many different settings, each chosen by the scores on S before it; seeded.

    Fewer where the sampler, which may come back to a setting, finds no others: a setting is scored once.

    Args:
        suggest: from an `optuna.Trial` to the setting.
        score: tries it.
        count: how many.
    """
    import optuna

    trials: dict[str, Trial] = {}

    def objective(trial: optuna.Trial) -> float:
        knobs = suggest(trial)
        name = json.dumps(knobs)
        if name not in trials:
            trials[name] = score(knobs)
        if len(trials) == count:
            trial.study.stop()
        return trials[name].on_s

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, 20 * count)
    return list(trials.values())


def best(trials: Sequence[Trial], score: str) -> Trial:
    """The winner by "on_s" or "by_fedavg"; the first of several."""
    return max(trials, key=lambda trial: getattr(trial, score))


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


def federated(method: FedAvg, clients: Sequence[Client], held: ImageDataset) -> tuple[float, float, int, nn.Module]:
    """(accuracy of FedAvg's network, seconds, bytes of all clients, the network)."""
    begun = time.perf_counter()
    release = method.fit(clients)
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


def costs(trials: Sequence[Trial], seconds: float, sent: int) -> dict[str, tuple[float, float, float]]:
    """Fig. 5's lines, for "bytes" and "seconds": S and one FedAvg with its winner, a trial on S, a trial by FedAvg.

    Args:
        trials: all of them.
        seconds: of distilling S.
        sent: bytes of distilling S.
    """

    def mean(name: str) -> float:
        return statistics.fmean(getattr(trial, name) for trial in trials)

    winner = best(trials, "on_s")
    return {
        "bytes": (sent + winner.bytes_by_fedavg, 0.0, mean("bytes_by_fedavg")),
        "seconds": (seconds + winner.seconds_by_fedavg, mean("seconds_on_s"), mean("seconds_by_fedavg")),
    }


def rank_correlation(trials: Sequence[Trial]) -> float | None:
    """Spearman's, of scores on S and by FedAvg; None of two trials (it would be 1 or -1) and of equal scores."""
    scores = [[trial.on_s for trial in trials], [trial.by_fedavg for trial in trials]]
    if len(trials) < 3 or any(len(set(own)) == 1 for own in scores):
        return None
    return float(spearmanr(*scores).statistic)


def report(
    trials: Sequence[Trial],
    distillation: tuple[float, int],
    winners: Mapping[str, float],
    output: Path,
    bill: Mapping[str, float] | None = None,
) -> None:
    """Print what was found, and write it as JSON.

    Args:
        trials: all of them.
        distillation: (seconds, bytes) of S.
        winners: test accuracies, by whose winner it is.
        output: the JSON file.
        bill: epsilon of each client, by what it pays for; None is not private.
    """
    shown = Table("setting", title="trials", title_justify="left")
    for name in ("on S", "by FedAvg"):
        shown.add_column(name, justify="right")
    for trial in sorted(trials, key=lambda trial: -trial.on_s):
        knobs = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in trial.knobs.items())
        shown.add_row(knobs, f"{trial.on_s:.1%}", f"{trial.by_fedavg:.1%}")
    lines = costs(trials, *distillation)
    crossings = {unit: crossing(*line) for unit, line in lines.items()}
    figure = Table(title="what so many trials cost", title_justify="left")
    for name in ("trials", "MB with S", "MB by FedAvg", "s with S", "s by FedAvg"):
        figure.add_column(name, justify="right")
    for count in sorted({1, 2, 4, 8, 16, 32, len(trials)}):
        ways = {unit: (once + count * on_s, count * by_fedavg) for unit, (once, on_s, by_fedavg) in lines.items()}
        figure.add_row(str(count), *(f"{b / 1e6:.0f}" for b in ways["bytes"]), *(f"{s:.0f}" for s in ways["seconds"]))
    rank = rank_correlation(trials)
    print(shown, figure)
    for unit, count in crossings.items():
        print(f"S costs fewer {unit} from so many trials on: {count or 'never'}")
    print(f"rank correlation: {'none' if rank is None else f'{rank:.2f}'}")
    for name, value in winners.items():
        print(f"{name}, on the test set: {value:.1%}")
    for name, value in (bill or {}).items():
        print(f"epsilon of each client, {name}: {value:.2f}")
    found = {
        "rank_correlation": rank,
        "test_accuracy": dict(winners),
        "distillation": dict(zip(("seconds", "bytes"), distillation, strict=True)),
        "costs": {
            unit: dict(zip(("once", "trial_on_s", "trial_by_fedavg"), line, strict=True))
            for unit, line in lines.items()
        },
        "cheaper_from_trials": crossings,
        "epsilon_of_each_client": None if bill is None else dict(bill),
        "trials": [{name: value for name, value in vars(trial).items() if name != "network"} for trial in trials],
    }
    output.write_text(f"{json.dumps(found, indent=1)}\n", encoding="utf-8")
    print(f"report: {output}")
