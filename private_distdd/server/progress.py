"""The progress line: rounds or steps, matching loss, epsilon and bytes so far, time left."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from private_distdd.rounding import in_bytes, rounded_up

if TYPE_CHECKING:
    from private_distdd.server.record import RoundRecord


_PAUSE = 1.0  # seconds at least between two texts, each of which needs an epsilon
_SHARE = 0.05  # of the time, at most, goes into them


@contextlib.contextmanager
def progress_bar(total: int, *, unit: str, shown: bool) -> Iterator[Callable[[int, RoundRecord], None]]:
    """A function to call with how much is done and the newest record.

    It draws a bar on standard error, or does nothing if not `shown`.

    Args:
        total: of units.
        unit: what is counted: "round" or "step".
    """
    if not shown:
        yield lambda done, record: None
        return
    columns = (
        TextColumn(unit),
        MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=2 * len(str(total)) + 1)),
        BarColumn(bar_width=5),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task, due = progress.add_task("waiting for the first messages", total=total), 0.0

        def update(done: int, record: RoundRecord) -> None:
            nonlocal due
            began = time.monotonic()
            if began >= due or done == total:
                progress.update(task, description=describe(record))
                took = time.monotonic() - began
                due = began + max(_PAUSE, took / _SHARE)
            progress.update(task, completed=done)

        yield update


def describe(record: RoundRecord) -> str:
    """One line of words on a round: matching loss, the bill so far of the claim, and what a client sent at most."""
    loss = "nobody answered" if math.isnan(record.matching_loss) else f"loss {record.matching_loss:.3f}"
    bill = "NOT PRIVATE"
    if record.plan is not None:
        spent = max(record.epsilon.values(), default=0.0)
        bill = f"epsilon so far {rounded_up(spent, 3)} of {rounded_up(record.plan.epsilon, 3)}"
    sent = max((traffic.sent for traffic in record.traffic.values()), default=0)
    return f"{loss}  {bill}  {in_bytes(sent)} sent"
