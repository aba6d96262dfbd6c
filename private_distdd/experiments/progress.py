"""What is told of a sweep meanwhile: the time left by the cells that were run, and failures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from datetime import timedelta

from private_distdd.experiments.cell import Cell
from private_distdd.experiments.run import DONE, Record


def seconds_left(records: Sequence[Record], left: Sequence[Cell], processes: int) -> float | None:
    """An estimate by the finished cells: those of the same method, or all where there are none.

    None where nothing is finished, or nothing left.
    """
    spent: dict[str, list[float]] = {}
    for record in records:
        if record["status"] == DONE:
            spent.setdefault(record["settings"]["method"]["name"], []).append(sum(record["seconds"].values()))
    every = [seconds for part in spent.values() for seconds in part]
    if not every or not left:
        return None
    expected = (statistics.fmean(spent.get(cell.settings["method"]["name"], every)) for cell in left)
    return sum(expected) / min(processes, len(left))


def words(records: Sequence[Record], left: float | None) -> str:
    """What is told beside how many cells are done: the time left, and how many failed."""
    failed = sum(record["status"] != DONE for record in records)
    said = [] if left is None else [f"about {timedelta(seconds=round(left))} left"]
    return "  ".join([*said, *([f"{failed} failed"] if failed else [])])
