"""A sweep, run: every cell checked first, each finished one kept, reports after each."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from private_distdd.errors import ConfigurationError, NotPrivateWarning
from private_distdd.experiments.build import validate
from private_distdd.experiments.cell import Cell
from private_distdd.experiments.config import Sweep
from private_distdd.experiments.page import render_sweep
from private_distdd.experiments.processes import run_apart
from private_distdd.experiments.progress import seconds_left, words
from private_distdd.experiments.records import Records
from private_distdd.experiments.results import as_csv, as_json
from private_distdd.experiments.run import DONE, FORMAT, Record, run_to_file
from private_distdd.files import write_file
from private_distdd.progress import showing
from private_distdd.validate import require_count

CSV, JSON, PAGE = "results.csv", "results.json", "sweep.html"


def sweep(
    config: str | os.PathLike[str] | Mapping[str, Any],
    output: str | os.PathLike[str] | None = None,
    *,
    processes: int = 1,
    progress: bool = False,
) -> Records:
    """Run every cell of a configuration that the folder does not hold yet, and report on all of them.

    Killed at any moment, and called again with the same folder, it goes on with what is left: a finished cell is never
    run again, one that failed is.  A changed configuration runs what is new in it.

    Args:
        config: a TOML file, or what it would hold; see `experiments.config.Sweep` and docs/sweeps.md.
        output: the folder for "cells/", "results.csv", "results.json" and "sweep.html", new or one of a sweep; default:
            the configuration's name without its ending.
        processes: cells at a time, at least 1.  With 1 they run in this process; with more, each runs in one of its own
            with one thread of torch, and a script must call this below `if __name__ == "__main__":`.
        progress: show how many cells are done, with the time left by them, on standard error.

    Returns:
        the records of all cells, in their order: a list that is shown as a table.  docs/sweeps.md has the fields;
        "status" is "done" or "failed".

    Raises:
        ConfigurationError: a cell cannot work, with nothing run; or the folder is another's, in use, or not writable.
        KeyboardInterrupt: Ctrl-C: cells that were being run are lost, finished ones are kept and reported.

    Formal guarantee: the epsilon of a cell is that of its own clients, with ledgers of their own, for this one run.  It
    says nothing of several cells that were made from the same examples, nor of a choice among them by their accuracy.
    """
    plan = Sweep.of(config) if isinstance(config, Mapping) else Sweep.read(config)
    if output is None:
        if isinstance(config, Mapping):
            raise ConfigurationError("a sweep without output", "a folder", "Name one.")
        output = Path(config).with_suffix("")
    require_count("processes", processes, "1 runs one cell after another.")
    folder = Path(output)
    _require_own(folder)
    records = {cell.id: record for cell in plan.cells if (record := _kept(folder, cell)) is not None}
    left = [cell for cell in plan.cells if cell.id not in records]
    for cell in left:
        validate(cell)
    if any(not cell.settings["privacy"] for cell in left):
        warnings.warn("some cells have no privacy: their runs are NOT private.", NotPrivateWarning, stacklevel=2)

    def known() -> Records:
        return Records(records[cell.id] for cell in plan.cells if cell.id in records)

    def report() -> None:
        content = as_json(plan.config, len(plan.cells), known())
        write_file(folder / JSON, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
        write_file(folder / CSV, as_csv(known()).encode())
        write_file(folder / PAGE, render_sweep(folder.name, plan.config, len(plan.cells), known()).encode())

    def tell() -> None:
        found = known()
        waiting = [cell for cell in left if cell.id not in records]
        shown.at(len(found), lambda: words(found, seconds_left(found, waiting, processes)))

    running = contextlib.closing(_run(folder, left, processes))  # whatever ends this ends the processes
    shows = showing(len(plan.cells), unit="cell", shown=progress, even=False)
    with _own(folder), shows as shown, running as done:
        tell()
        try:
            for cell in done:
                records[cell.id] = json.loads(_file(folder, cell).read_bytes())
                report()
                tell()
        except KeyboardInterrupt:
            finished = f"{sum(record['status'] == DONE for record in records.values())} of {len(plan.cells)} cells"
            raise KeyboardInterrupt(
                f"stopped by Ctrl-C; {finished} are done and kept in {folder}, and the same sweep goes on from there"
            ) from None
        report()
    return known()


def _run(folder: Path, cells: Sequence[Cell], processes: int) -> Generator[Cell]:
    """Run the cells to their files, and yield each when it is done."""
    if processes > 1:
        yield from run_apart([(cell, _file(folder, cell)) for cell in cells], processes)
        return
    for cell in cells:
        run_to_file(cell, _file(folder, cell))
        yield cell


def _file(folder: Path, cell: Cell) -> Path:
    return folder / "cells" / f"{cell.id}.json"


def _kept(folder: Path, cell: Cell) -> Record | None:
    """The record of a cell that was finished before."""
    path = _file(folder, cell)
    if not path.exists():
        return None
    try:
        record: Record = json.loads(path.read_bytes())
        if record["format"] != FORMAT:
            raise ValueError(f"format {record['format']!r}")
        return record if record["status"] == DONE else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path}: {error}", f"a record of {FORMAT}", "Delete it: its cell is run.") from error


def _require_own(folder: Path) -> None:
    """Refuse a place that is no sweep's folder, before the work."""
    if folder.exists() and not (folder / "cells").is_dir() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigurationError(f"{folder} is there", "a new folder, or one of a sweep", "Choose another output.")


@contextlib.contextmanager
def _own(folder: Path) -> Iterator[None]:
    """The folder, made, and nobody else's while the block runs.

    Raises:
        ConfigurationError: another sweep runs in it, or it cannot be written.
    """
    try:
        (folder / "cells").mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "sweep.lock", timeout=0):
            yield
    except Timeout as error:
        raise ConfigurationError(f"{folder} is in use", "one sweep a folder", "Wait for the other one.") from error
    except OSError as error:
        raise ConfigurationError(
            f"{folder} cannot be written: {error}", "a writable place", "Write elsewhere."
        ) from error
