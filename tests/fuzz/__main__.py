"""The longer run: every finding of every target, each once, with the first input that showed it."""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, settings

from .harness import Finding
from .targets import TARGETS, Target


def explore(target: Target, cases: int) -> dict[str, tuple[int, str]]:
    """How often each finding was made, and its first input."""
    found: dict[str, tuple[int, str]] = {}

    @settings(
        max_examples=cases,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(target.strategy())
    def attack(case: Any) -> None:
        try:
            target.check(case)
        except Finding as finding:
            count, first = found.get(finding.kind, (0, f"{case!r:.600}\n        {finding!s:.300}"))
            found[finding.kind] = count + 1, first

    attack()
    return found


def main() -> int:
    """0 where nothing was found, 1 else."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, help="in all, over the targets as in CI")
    parser.add_argument("--only", default="", help="targets whose name contains this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    chosen = [target for target in TARGETS if options.only in target.name]
    if not chosen:
        parser.error(f"no target is named so; there are {', '.join(target.name for target in TARGETS)}")
    share = options.cases / sum(target.cases for target in chosen)
    total = 0
    for target in chosen:
        cases, start = max(1, round(target.cases * share)), time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = explore(target, cases)
        print(f"{target.name}: {cases} cases, {time.process_time() - start:.0f} s, {len(found)} findings", flush=True)
        for kind, (count, first) in sorted(found.items()):
            print(f"    {count} times: {kind}\n        {first}", flush=True)
        total += len(found)
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
