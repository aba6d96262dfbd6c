"""The bar of a sweep: cells done, and the time left by the cells that were run."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

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


@contextlib.contextmanager
def sweep_bar(total: int, shown: bool) -> Iterator[Callable[[Sequence[Record], float | None], None]]:
    """A function to call with all records and the seconds left; it draws a bar on standard error if `shown`."""
    if not shown:
        yield lambda records, left: None
        return
    columns = (
        TextColumn("cell"),
        MofNCompleteColumn(),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=total)

        def update(records: Sequence[Record], left: float | None) -> None:
            failed = sum(record["status"] != DONE for record in records)
            said = "" if left is None else f"about {timedelta(seconds=round(left))} left"
            said += f"  {failed} failed" if failed else ""
            progress.update(task, completed=len(records), description=said)

        yield update
