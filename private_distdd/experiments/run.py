"""One cell, run: its record, and the file that says it is done."""

from __future__ import annotations

import json
import math
import platform
import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from private_distdd.encoding import sha256
from private_distdd.errors import ConfigurationError, NotPrivateWarning, PrivateDistDDError
from private_distdd.experiments.build import Built, build
from private_distdd.experiments.cell import Cell
from private_distdd.files import write_file
from private_distdd.release.bill import as_number, as_text
from private_distdd.release.form import PACKAGES, version
from private_distdd.release.release import Release
from private_distdd.site.client import Client

FORMAT = "private_distdd.sweep/1"
DONE, FAILED = "done", "failed"

Record: TypeAlias = dict[str, Any]
"""What is known of a cell that was run; docs/sweeps.md lists the fields."""


def run_to_file(cell: Cell, path: Path) -> None:
    """Run a cell and write its record, whole or not at all.

    Raises:
        KeyboardInterrupt: Ctrl-C meanwhile; nothing is written.
        OSError: the file cannot be written.
    """
    write_record(run(cell), path)


def write_record(record: Record, path: Path) -> None:
    """Write a cell's record, whole or not at all."""
    write_file(path, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())


def run(cell: Cell) -> Record:
    """Run a cell, and record it whether it could be finished or not.

    Raises:
        KeyboardInterrupt: Ctrl-C meanwhile.
    """
    try:
        return _record(cell, DONE) | _outcome(cell)
    except PrivateDistDDError as error:
        return failure(cell, str(error))
    except Exception as error:  # whatever it is, the other cells go on
        return failure(cell, f"{type(error).__name__}: {error}")


def failure(cell: Cell, error: str) -> Record:
    """The record of a cell that could not be finished."""
    return _record(cell, FAILED) | {"error": error}


def _record(cell: Cell, status: str) -> Record:
    versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    return {"format": FORMAT, "id": cell.id, "status": status, "settings": cell.record, "versions": versions}


def _outcome(cell: Cell) -> dict[str, Any]:
    """What was found; of clients alone the joined accuracies, and of the rest what is largest among them."""
    built, outcomes, seconds = build(cell), list[dict[str, Any]](), {"distillation": 0.0, "evaluation": 0.0}
    for clients in built.federations:
        started = time.perf_counter()
        release = _release(built, clients)
        distilled = time.perf_counter()
        outcomes.append(_scores(built, release) | _bill(release))
        seconds["distillation"] += distilled - started
        seconds["evaluation"] += time.perf_counter() - distilled
    each = ("accuracies", "balanced_accuracies", "aucs", "confusion")  # of every network of every federation
    every = {name: [score for outcome in outcomes for score in outcome[name]] for name in each}
    accuracies = every["accuracies"]
    taught = [outcome["teacher_accuracy"] for outcome in outcomes if outcome["teacher_accuracy"] is not None]
    worst = max(outcomes, key=lambda outcome: as_number(outcome["epsilon"]))
    return {
        **worst,
        **every,
        "accuracy": statistics.fmean(accuracies),
        "accuracy_std": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        "teacher_accuracy": statistics.fmean(taught) if taught else None,
        "scored_on": built.on,
        "scored_examples": len(built.scored),
        "bytes_sent": max(outcome["bytes_sent"] for outcome in outcomes),
        "bytes_received": max(outcome["bytes_received"] for outcome in outcomes),
        "seconds": seconds,
        "synthetic": worst["synthetic"] if len(outcomes) == 1 else None,
    }


def _release(built: Built, clients: Sequence[Client]) -> Release:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotPrivateWarning)  # `sweep` says it once for all cells
        release = built.method.fit(clients)
    if release.card["progress"]["stopped_early"]:
        raise ConfigurationError("a run that ended early, for no client was left", "a whole run", "Try it alone.")
    return release


def _scores(built: Built, release: Release) -> dict[str, Any]:
    s, traffic = release.synthetic, release.card["traffic"].values()
    own = None if release.teacher is None else built.score(release.teacher)
    # Where there is no S, the network is what was made.
    scores = [own] if s is None else built.evaluate(s).scores
    made = [score for score in scores if score is not None]
    return {
        "accuracies": [score.accuracy for score in made],
        "balanced_accuracies": [score.balanced_accuracy for score in made],
        "aucs": [score.auc if math.isfinite(score.auc) else None for score in made],
        "confusion": [score.confusion for score in made],
        "teacher_accuracy": None if s is None or own is None else own.accuracy,
        "bytes_sent": max(client["sent"] for client in traffic),
        "bytes_received": max(client["received"] for client in traffic),
        "synthetic": None if s is None else sha256(s.images.numpy().tobytes()),
    }


def _bill(release: Release) -> dict[str, Any]:
    """The largest claim among the clients by each accountant, and what it was claimed for."""
    claims = [bill["claim"] for bill in release.card["clients"].values()]
    plan: Mapping[str, Any] = release.card["plan"] or {}

    def most(name: str) -> float | str:
        return as_text(max(as_number(claim[name]) for claim in claims) if release.private else math.inf)

    epsilons = {"epsilon": most("epsilon"), "epsilon_rdp": most("rdp"), "epsilon_prv": most("prv")}
    return epsilons | {name: plan.get(name) for name in ("delta", "noise_multiplier")}
