"""The progress line: rounds or steps, matching loss, epsilon and bytes so far, time left."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.rounding import in_bytes, rounded_up

if TYPE_CHECKING:
    from private_distdd.server.record import RoundRecord


@contextlib.contextmanager
def progress_bar(
    total: int, plan: PrivacyPlan | None, *, unit: str, shown: bool
) -> Iterator[Callable[[int, RoundRecord], None]]:
    """A function to call with how much is done and the newest record.

    It draws a bar on standard error, or does nothing if not `shown`.

    Args:
        total: of units.
        plan: the mechanism's constants, None without privacy.
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
        task = progress.add_task("waiting for the first messages", total=total)

        def update(done: int, record: RoundRecord) -> None:
            progress.update(task, completed=done, description=describe(record, plan))

        yield update


def describe(record: RoundRecord, plan: PrivacyPlan | None) -> str:
    """One line of words on a round: matching loss, the bill so far (RDP) or none, and what a client sent at most."""
    loss = "nobody answered" if math.isnan(record.matching_loss) else f"loss {record.matching_loss:.3f}"
    bill = "NOT PRIVATE"
    if plan is not None:
        bill = f"epsilon so far {rounded_up(max(record.epsilon.values(), default=0.0), 3)} (RDP)"
    sent = max((traffic.sent for traffic in record.traffic.values()), default=0)
    return f"{loss}  {bill}  {in_bytes(sent)} sent"
