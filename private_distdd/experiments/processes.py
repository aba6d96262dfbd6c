"""Cells side by side, each in a process of its own: one that dies takes no other with it."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from private_distdd.experiments.cell import Cell
from private_distdd.experiments.run import failure, run_to_file, write_record


def run_apart(cells: Sequence[tuple[Cell, Path]], processes: int) -> Iterator[Cell]:
    """Run cells to their files, so many at a time, and yield each when it is done; whoever leaves early kills the rest.

    A process begins as a copy of one that has imported the library and done nothing, so it shares no random state with
    another; noise and coins are keyed by the operating system in each.

    Args:
        cells: with the files for their records.
        processes: at most so many at a time, with one thread of torch each.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    waiting = iter(cells)
    running: dict[int, tuple[BaseProcess, Cell, Path]] = {}
    try:
        while True:
            for cell, path in itertools.islice(waiting, processes - len(running)):
                path.unlink(missing_ok=True)  # of an earlier try, which failed
                started = context.Process(target=_work, args=(cell, path))
                started.start()
                running[started.sentinel] = (started, cell, path)
            if not running:
                return
            for sentinel in connection.wait(list(running)):
                assert isinstance(sentinel, int)  # noqa: S101 - for the type checker: so they came in
                process, cell, path = running.pop(sentinel)
                process.join()
                if not path.exists():  # killed for its memory, for example
                    write_record(failure(cell, f"its process ended with exit code {process.exitcode}"), path)
                yield cell
    finally:
        for process, _, _ in running.values():
            process.kill()
            process.join()


def _work(cell: Cell, path: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the sweep's, which then ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    run_to_file(cell, path)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
