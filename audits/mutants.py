"""Every broken mechanism against every gate, and how often the gates fire on the library itself.

python audits/mutants.py             the table: 1,000 trials a side
python audits/mutants.py --quick     the same with 300 trials a side
python audits/mutants.py --alarms 1000     1,000 runs of the statistical gates on the library (about three minutes)
"""

from __future__ import annotations

import argparse
import sys
import time

import torch
from scipy import stats

from private_distdd.auditing.mutants import CORRECT, MUTANTS, gates, statistical_gates
from private_distdd.auditing.records import GATE_ALPHA


def table(trials: int) -> bool:
    """Print which gates catch which mutant; is every mutant caught, and the library not?"""
    sound = True
    print(f"{'mechanism':38}caught by")
    for mutant in (CORRECT, *MUTANTS):
        caught = [record.audit for record in gates(mutant, trials) if record.rejected]
        sound &= bool(caught) != (mutant is CORRECT)
        print(f"{mutant.name:38}{', '.join(caught) or '-'}", flush=True)
    return sound


def alarms(runs: int) -> bool:
    """Print how many of `runs` families of gates, seeds 0, 1, ..., fired on the library; is it within the bound?"""
    started, fired = time.perf_counter(), 0
    for seed in range(runs):
        fired += any(record.rejected for record in statistical_gates(CORRECT, seed=seed))
    allowed = int(stats.binom.ppf(0.999, runs, GATE_ALPHA))
    seconds = time.perf_counter() - started
    print(
        f"{fired} alarms in {runs} runs on the library; at most {allowed} are within the 99.9 % bound ({seconds:.0f} s)"
    )
    return fired <= allowed


def main() -> int:
    """1 where a mutant was missed, or the library caught."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="300 trials a side")
    parser.add_argument("--alarms", type=int, metavar="N", help="instead: N runs on the library")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sound = alarms(options.alarms) if options.alarms else table(300 if options.quick else 1000)
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
