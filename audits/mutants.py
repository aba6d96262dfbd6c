"""Every broken mechanism against every gate, and how often the gates fire on the library itself.

python audits/mutants.py             the table: 1,000 trials a side, three seeds (about twenty minutes)
python audits/mutants.py --quick     the same with 300 trials a side and one seed
python audits/mutants.py --alarms 1000     1,000 runs of the statistical gates on the library (about twenty minutes)

The alarms are counted with messages of 50,000 values: the laws are exact at any size.  With --full the largest have 2.4
million, as in the table and in `private-distdd audit`.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch
from scipy import stats

from private_distdd.auditing.checks.noise import LARGE
from private_distdd.auditing.mutants.gates import SMALL, deterministic_gates, statistical_gates
from private_distdd.auditing.mutants.mutants import CORRECT, MUTANTS
from private_distdd.auditing.report.records import GATE_ALPHA


def table(trials: int, seeds: int) -> bool:
    """Print which gates catch which mutant, for each seed; is every mutant caught every time, and the library never?"""
    sound = True
    print(f"{'fault':50}seeds  caught by")
    for mutant in (CORRECT, *MUTANTS):
        # The gates without seeds need be asked once.
        fixed = [record.audit for record in deterministic_gates(mutant) if record.rejected]
        found = [
            fixed + [record.audit for record in statistical_gates(mutant, trials, seed) if record.rejected]
            for seed in range(seeds)
        ]
        caught = sum(map(bool, found))
        sound &= caught == (0 if mutant is CORRECT else seeds)
        always = [audit for audit in found[0] if all(audit in others for others in found)]
        print(f"{mutant.name:50}{caught}/{seeds}    {', '.join(always) or '-'}", flush=True)
    return sound


def alarms(runs: int, large: int) -> bool:
    """Print how many of `runs` families of gates, seeds 0, 1, ..., fired on the library; is it within the bound?"""
    started, fired = time.perf_counter(), 0
    for seed in range(runs):
        fired += any(record.rejected for record in statistical_gates(CORRECT, seed=seed, large=large))
    allowed = int(stats.binom.ppf(0.999, runs, GATE_ALPHA))
    seconds = time.perf_counter() - started
    print(
        f"{fired} alarms in {runs} runs on the library; at most {allowed} are within the 99.9 % bound ({seconds:.0f} s)"
    )
    return fired <= allowed


def main() -> int:
    """1 where a mutant was missed, or the library caught."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="300 trials a side, one seed")
    parser.add_argument("--alarms", type=int, metavar="N", help="instead: N runs on the library")
    parser.add_argument("--full", action="store_true", help="of the alarms: messages of 2.4 million values")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.alarms:
        sound = alarms(options.alarms, LARGE if options.full else SMALL)
    else:
        sound = table(300, 1) if options.quick else table(1000, 3)
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
