"""Which second accountant to ask at run time: Microsoft's prv-accountant or Google's dp-accounting?

    python benchmarks/cross_check.py

Both are asked for epsilon at delta = 1e-5 of n releases at sample rate q, where that is at most 10: prv-accountant as
`PRV` asks it, on its grid; dp-accounting (privacy loss distributions, in both directions) on its usual grid of 1e-4,
and on one of 3e-3, which is fine enough for a check. The run fails where an answer is further from ours than `PRV`
lets it be. "first" is a history that nobody asked about before, "next" the same with one release less, for which each
keeps what it can: that is what a federation asks, whose clients differ in how often they took part. Times are CPU
seconds, the least of three, on whatever else the machine is doing: ratios travel between machines, seconds do not.
Needs dp-accounting (the `test` extra).
"""

from __future__ import annotations

import itertools
import math
import time
import warnings
from collections.abc import Callable

from dp_accounting.pld import privacy_loss_distribution as pld

from private_distdd.privacy.accountants import PRV, prv
from private_distdd.privacy.accountants.base import canonical
from private_distdd.privacy.events import SampledGaussian

DELTA = 1e-5
COUNTS, RATES, SIGMAS = (1, 100, 1000), (0.1, 1.0), (0.6, 1.0, 2.0, 5.0)
GRIDS = (1e-4, 3e-3)
TRIES = 3


def seconds(work: Callable[[], float], before: Callable[[], object]) -> tuple[float, float]:
    """The least CPU time of three, and what came out; `before` each, nothing is kept."""
    least, found = math.inf, math.nan
    for _ in range(TRIES):
        before()
        start = time.process_time()
        found = work()
        least = min(least, time.process_time() - start)
    return least, found


def microsoft(sigma: float, q: float, count: int, error: float) -> float:
    """prv-accountant as `PRV` asks it: the estimate on the first grid, four times as coarse, that is not too large."""
    terms = canonical([SampledGaussian(sigma, q, count)]) or ()
    for coarseness in (4, 16, 64):
        try:
            return prv._microsoft(terms, DELTA, coarseness * error)[1]
        except prv._UnservedError:
            continue
    return math.nan


class Google:
    """dp-accounting's privacy loss distribution on a grid; that of one release is kept."""

    def __init__(self, grid: float) -> None:
        self.grid = grid
        self.kept: dict[tuple[float, float], pld.PrivacyLossDistribution] = {}

    def ask(self, sigma: float, q: float, count: int) -> float:
        if (sigma, q) not in self.kept:
            self.kept[sigma, q] = pld.from_gaussian_mechanism(
                sigma, sampling_prob=q, value_discretization_interval=self.grid
            )
        return float(self.kept[sigma, q].self_compose(count).get_epsilon_for_delta(DELTA))


def row(sigma: float, q: float, count: int, estimate: float) -> tuple[list[str], dict[str, float]]:
    """One history: its cells, and how many times as long dp-accounting takes."""
    error = min(0.01, max(2e-5, estimate / 250))  # as `PRV` takes it
    googles = {grid: Google(grid) for grid in GRIDS}
    cells, ratios = [str(count), f"{q:g}", f"{sigma:g}", f"{estimate:.4f}"], {}
    for name, asked in (("first", count), ("next", max(1, count - 1))):

        def forget(name: str = name) -> None:
            if name == "first":
                prv._microsoft_composer.cache_clear()
                for google in googles.values():
                    google.kept.clear()

        own, found = seconds(lambda n=asked: microsoft(sigma, q, n, error), forget)
        answers, times = [found], [own]
        for grid, google in googles.items():
            other, found = seconds(lambda n=asked, g=google: g.ask(sigma, q, n), forget)
            answers.append(found)
            times.append(other)
            ratios[f"{name}, grid {grid:g}"] = other / own
        if name == "first":
            cells += [f"{answer:.4f}" for answer in answers]
            if any(abs(answer - estimate) > 2 * error for answer in answers):
                raise SystemExit(f"{cells}: an answer is more than {2 * error:g} from ours")
        cells.append(" / ".join(f"{1000 * took:.1f}" for took in times))
    return cells, ratios


def main() -> None:
    """Prints a row for each history that the cross-check is asked about, and the geometric means of the ratios."""
    warnings.simplefilter("ignore")
    names = ("n", "q", "sigma", "epsilon", "prv-accountant", "dp 1e-4", "dp 3e-3")
    names += ("first, ms: prv / dp 1e-4 / dp 3e-3", "next, ms: prv / dp 1e-4 / dp 3e-3")
    print(f"| {' | '.join(names)} |\n|{' --- |' * len(names)}")
    every: dict[str, list[float]] = {}
    for count, q, sigma in itertools.product(COUNTS, RATES, SIGMAS):
        estimate = PRV(cross_check=False).bracket([SampledGaussian(sigma, q, count)], DELTA).estimate
        if estimate > prv.CHECKED_EPSILON:  # prv-accountant is not asked
            continue
        cells, ratios = row(sigma, q, count, estimate)
        print(f"| {' | '.join(cells)} |", flush=True)
        for name, ratio in ratios.items():
            every.setdefault(name, []).append(ratio)
    for name, found in every.items():
        mean = math.exp(sum(map(math.log, found)) / len(found))
        print(f"{name}: dp-accounting takes {mean:.1f} times as long ({min(found):.2f} to {max(found):.0f})")


if __name__ == "__main__":
    main()
