"""How far the bill lies above the truth, and that it never lies below, over random settings.

    python benchmarks/looseness.py --cases 200

Settings are drawn log-uniformly: sigma from .3 to 50, q from 1e-6 to 1, 1 to 100,000 releases, delta 1e-6, 1e-5 or
1e-4.  Ours is `best_epsilon`.  It is compared with the pessimistic privacy-loss distribution of Google's dp_accounting
(the `test` extra); below the optimistic one it would be wrong.  Where the pessimistic epsilon is at least `FLOOR`, the
figure is ours / pessimistic - 1 (negative where Google's grid is the looser one).  Below, where a ratio says little and
the truth may be 0, it is the difference.  Times are wall time on whatever else the machine is doing; each setting is
computed once.
"""

from __future__ import annotations

import argparse
import math
import random
import time
import warnings

import numpy as np

from private_distdd.privacy.accountants import best_epsilon, epsilon
from private_distdd.privacy.events import SampledGaussian

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from dp_accounting.pld import privacy_loss_distribution as pld

DELTAS = (1e-6, 1e-5, 1e-4)
FLOOR = 1e-3  # of epsilon: smaller ones are compared by their difference
ORACLE_POINTS = 2**21  # of a discretised loss: what the oracle may hold


def setting(coins: random.Random) -> tuple[SampledGaussian, float]:
    """One random release schedule, and a delta."""

    def between(low: float, high: float) -> float:
        return math.exp(coins.uniform(math.log(low), math.log(high)))

    event = SampledGaussian(between(0.3, 50), between(1e-6, 1), round(between(1, 1e5)))
    return event, coins.choice(DELTAS)


def oracle(event: SampledGaussian, delta: float, near: float, pessimistic: bool) -> float:
    """Google's bound on epsilon, on a grid made for an epsilon of about `near`."""
    reach = 1 / event.noise_multiplier**2 + 15 / event.noise_multiplier  # of the loss of one release
    finest = max(near, FLOOR / 10) / 1000 / math.sqrt(event.count)
    found = pld.from_gaussian_mechanism(
        event.noise_multiplier,
        sampling_prob=event.sample_rate,
        pessimistic_estimate=pessimistic,
        use_connect_dots=pessimistic,  # that of optimism it does not know
        value_discretization_interval=max(finest if not pessimistic else finest * 30, 2 * reach / ORACLE_POINTS),
    )
    return float(found.self_compose(event.count).get_epsilon_for_delta(delta))


def main() -> None:
    """Prints the table, and fails where ours is below an optimistic bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    coins = random.Random(arguments.seed)  # noqa: S311 - public: which settings are tried
    epsilon([SampledGaussian(2.0, 0.5)], 1e-5, "prv")  # imports

    ratios, differences, violations, slowest = [], [], [], (0.0, "")
    for _ in range(arguments.cases):
        event, delta = setting(coins)
        shown = f"sigma {event.noise_multiplier:.3g}, q {event.sample_rate:.2g}, T {event.count}, delta {delta:g}"
        start = time.perf_counter()
        ours = best_epsilon([event], delta)
        slowest = max(slowest, (time.perf_counter() - start, shown))
        high = oracle(event, delta, ours, pessimistic=True)
        low = oracle(event, delta, ours, pessimistic=False)
        if ours < low * (1 - 1e-9) - 1e-12:
            violations.append(f"{shown}: {ours} is below {low}")
        if high >= FLOOR:
            ratios.append((ours / high - 1, shown))
        else:
            differences.append((ours - high, shown))

    print(f"{arguments.cases} cases, seed {arguments.seed}")
    for name, figures in (
        (f"ours / pessimistic - 1, epsilon >= {FLOOR:g}", ratios),
        (f"ours - pessimistic, epsilon < {FLOOR:g}", differences),
    ):
        if figures:
            values = [value for value, _ in figures]
            worst, where = max(figures)
            print(
                f"{name} ({len(figures)} cases): median {np.median(values):.2g}, p90 {np.quantile(values, 0.9):.2g},"
                f" worst {worst:.2g} ({where})"
            )
    print(f"slowest call: {slowest[0]:.2f} s ({slowest[1]})")
    print(f"violations (ours below the optimistic bound): {len(violations)}", *violations, sep="\n  ")
    if violations:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
