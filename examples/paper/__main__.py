"""The DistDD paper's tables and figures, one command each.

    python -m examples.paper table1 --quick            digits, in a minute or two
    python -m examples.paper all --cores --root DATA   MNIST, in an evening on two cores
    python -m examples.paper table1 --paper --root DATA   the paper's sizes: for a GPU

Each line of a figure is a sweep below --output: a run that was stopped goes on, and results.csv, results.json and
sweep.html of each are there (docs/sweeps.md).  Written beside them: NAME.svg, or table1.md, where the paper's figures
stand beside ours.  Test sets are scored: nothing is chosen here.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from examples.paper.experiments import Experiment, experiments
from examples.paper.report import picture, table
from examples.paper.sizes import cores, paper, quick
from private_distdd import sweep

NAMES = ("table1", "fig2", "fig3", "fig6", "fig7", "fig12", "fig13", "fig14")


def main() -> int:
    """1 where a cell failed."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.paper", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=(*NAMES, "all"), help="figs 8 to 11 are 12, 13, 6 and 7; 4 and 5: examples/")
    sizes = parser.add_mutually_exclusive_group(required=True)
    sizes.add_argument("--quick", action="store_true")
    sizes.add_argument("--cores", action="store_true")
    sizes.add_argument("--paper", action="store_true")
    parser.add_argument("--root", default="data", help="folder of torchvision's files (default: data)")
    parser.add_argument("--only", default="", metavar="TEXT", help="lines whose label contains it")
    parser.add_argument("--output", type=Path, default=Path("paper"), help="(default: paper)")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    size = quick() if options.quick else cores(options.root) if options.cores else paper(options.root)
    every = experiments(size)
    failed = [
        run(name, every[name], options.output, options.only, options.processes)
        for name in (NAMES if options.name == "all" else (options.name,))
    ]
    return int(any(failed))


def run(name: str, experiment: Experiment, output: Path, only: str, processes: int) -> bool:
    """Run one of them and write what was found; True where a cell failed."""
    found, failed = {}, False
    for label, config in experiment.lines.items():
        if only not in label:
            continue
        folder = output / name / "".join(c if c.isalnum() else "-" for c in label)
        records = sweep(config, folder, processes=processes, progress=sys.stderr.isatty())
        found[label] = [record for record in records if record["status"] == "done"]
        failed |= len(found[label]) < len(records)
    found = {label: records for label, records in found.items() if records}
    print(experiment.title)
    if not found:
        print("nothing to show")
    elif not experiment.knob:
        text = table(experiment, found)
        (output / f"{name}.md").write_text(f"{text}\n", encoding="utf-8")
        print(text)
    else:
        (output / f"{name}.svg").write_text(picture(experiment, found), encoding="utf-8")
        for label, records in found.items():
            print(f"  {label}: " + ", ".join(f"{record['accuracy']:.1%}" for record in records))
        print(f"  picture: {output / name}.svg")
    return failed


if __name__ == "__main__":
    sys.exit(main())
