"""How much of epsilon the audits by counting reach, over seeds: a bound that rests on few false positives moves.

    python benchmarks/audit_power.py          about four minutes on one core

One release (sigma = 1, q = 1, 1e5 trials a side, 25 seeds), and whole runs (q = .1, T = 100, 1e6 in all, 8 seeds).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

from private_distdd.auditing.attacks.canary import canary_single
from private_distdd.auditing.attacks.runs import canary_run
from private_distdd.auditing.report.records import AIM, AuditRecord
from private_distdd.auditing.setting import Setting


def main() -> None:
    torch.set_num_threads(1)
    cases: list[tuple[str, Callable[[int], AuditRecord], int]] = [
        ("one release", lambda seed: canary_single(Setting(), 100_000, seed), 25),
        ("whole runs", lambda seed: canary_run(Setting(sample_rate=0.1, rounds=100), 500_000, seed), 8),
    ]
    for name, audit, seeds in cases:
        records = [audit(seed) for seed in range(seeds)]
        shares = [dict(record.lower)[AIM] / dict(record.upper)[AIM] for record in records]
        seconds = statistics.fmean(record.seconds for record in records)
        mean, least, most = statistics.fmean(shares), min(shares), max(shares)
        rejected = sum(record.rejected for record in records)
        print(f"{name}: mean {mean:.3f}, least {least:.3f}, largest {most:.3f} of epsilon; ", end="")
        print(f"{rejected} of {seeds} rejected; {seconds:.1f} s each", flush=True)


if __name__ == "__main__":
    main()
