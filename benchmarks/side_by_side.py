"""Speeds as ratios: the cases of one benchmark by turns in one process, medians and spread, a table and a JSON file.

A benchmark makes a `Benchmark`, compares cases, and ends with `finish`.  `python benchmarks/run.py` runs them all.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch


class Spread(NamedTuple):
    """Median, least and largest of the repeats."""

    median: float
    least: float
    largest: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Of these values."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.least:.3g} to {self.largest:.3g})"


class Benchmark:
    """One benchmark, from its command line to its JSON file.

    Args:
        name: of the JSON file.
        title: above the table.
        data: does it read real data?

    Attributes:
        quick: fewer or smaller cases were asked for.
        root: folder of the data, where `data`: the first argument, or PRIVATE_DISTDD_DATA.
    """

    def __init__(self, name: str, title: str, *, data: bool = False) -> None:
        parser = argparse.ArgumentParser(description=title)
        if data:
            known = os.environ.get("PRIVATE_DISTDD_DATA")
            parser.add_argument("root", nargs="?" if known else None, default=known, help="folder of the data")
        parser.add_argument("--quick", action="store_true", help="fewer repeats, smaller cases")
        parser.add_argument("--out", type=Path, default=Path("benchmark-results"), help="folder of the JSON file")
        parser.add_argument("--threads", type=int, default=1, help="of torch (1)")
        parser.add_argument("--device", default="cpu", help="where a benchmark that can computes (cpu)")
        arguments = parser.parse_args()
        torch.set_num_threads(arguments.threads)
        self.quick: bool = arguments.quick
        self.root: str = arguments.root if data else ""
        self.device: str = arguments.device
        self._name, self._title, self._out = name, title, arguments.out
        self._rows: list[dict[str, Any]] = []

    def seconds(self, cases: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
        """Seconds of each case in each repeat; by turns, after one round that nobody times."""
        found: dict[str, list[float]] = {name: [] for name in cases}
        for repeat in range(repeats + 1):
            for name, run in cases.items():
                start = time.perf_counter()
                run()
                if self.device != "cpu":
                    torch.cuda.synchronize()
                if repeat:
                    found[name].append(time.perf_counter() - start)
        return found

    def compare(self, setting: str, cases: Mapping[str, Callable[[], object]], *, against: str, repeats: int) -> None:
        """Rows of the table: each case's seconds, and how many times faster than `against` in the same repeat."""
        found = self.seconds(cases, repeats)
        for name, seconds in found.items():
            ratios = [other / own for other, own in zip(found[against], seconds, strict=True)]
            self.row(setting=setting, case=name, seconds=Spread.of(seconds), ratio=Spread.of(ratios))

    def row(self, **columns: object) -> None:
        """One more row, shown at once."""
        if not self._rows:
            print(f"# {self._title}", flush=True)
        self._rows.append(columns)
        print("  ".join(f"{name} {value}" for name, value in columns.items()), flush=True)

    def finish(self) -> None:
        """Write the JSON file: rows, and on what they were measured."""
        machine = {
            "processor": _processor(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "device": self.device if self.device == "cpu" else torch.cuda.get_device_name(),
            "quick": self.quick,
        }
        rows = [{k: v._asdict() if isinstance(v, Spread) else v for k, v in columns.items()} for columns in self._rows]
        self._out.mkdir(parents=True, exist_ok=True)
        path = self._out / f"{self._name}.json"
        path.write_text(json.dumps({"title": self._title, "machine": machine, "rows": rows}, indent=2) + "\n")
        print(f"wrote {path}")


def _processor() -> str:
    """As the kernel names it (Linux), or as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
