"""`private-distdd sweep`: many runs out of one configuration, their results as files, and the frontier."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from private_distdd.cli.options import Commands, add_json_option, add_quiet_option, add_threads_option, print_json


def add(commands: Commands) -> None:
    """Put the command and its options into the parser."""
    sweep = commands.add_parser(
        "sweep", help="run a grid of methods, knobs, budgets and seeds; go on where it was stopped"
    )
    sweep.add_argument("config", metavar="CONFIG.toml", help="sections of knobs; a list is swept")
    sweep.add_argument(
        "--output",
        metavar="FOLDER",
        help="a new folder, or this sweep's, to go on (default: CONFIG, beside the configuration)",
    )
    sweep.add_argument(
        "--processes", type=int, default=1, metavar="N", help="cells at a time, with one thread each (default 1)"
    )
    add_json_option(sweep)
    add_quiet_option(sweep)
    add_threads_option(sweep)
    sweep.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run what is left of a sweep and print its table; 1 where cells failed, else 0.

    Raises:
        ConfigurationError: a cell cannot work, with nothing run, or the folder is another's.
    """
    from rich.console import Console
    from rich.table import Table

    from private_distdd.experiments.config import Sweep
    from private_distdd.experiments.page import shown_score
    from private_distdd.experiments.results import points
    from private_distdd.experiments.run import DONE
    from private_distdd.experiments.sweep import PAGE, sweep
    from private_distdd.rounding import rounded_up

    cells = Sweep.read(options.config).cells
    print(f"{len(cells)} cells", file=sys.stderr)
    if bare := sum(not cell.settings["privacy"] for cell in cells):
        print(f"NOT PRIVATE: {bare} of them have no privacy; messages are exact statistics.", file=sys.stderr)
    folder = Path(options.output or Path(options.config).with_suffix(""))
    records = sweep(options.config, folder, processes=options.processes, progress=not options.quiet)
    failed = [record for record in records if record["status"] != DONE]
    if options.json:
        print_json({"folder": str(folder), "records": records})
        return 1 if failed else 0
    table = Table("method", "epsilon", "accuracy")
    for point in points(records):
        if point.done:
            table.add_row(point.label, rounded_up(point.epsilon()), shown_score(point.score()))
    Console().print(table)
    for record in failed:
        print(f"FAILED {record['id']}: {record['error']}")
    on = sorted({record["scored_on"] for record in records if record["status"] == DONE})
    print(f"accuracy on {' and '.join(on) or 'nothing'} examples; each cell has ledgers of its own: choices add up")
    print(f"next: open {folder / PAGE}")
    return 1 if failed else 0
