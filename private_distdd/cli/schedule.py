"""The planner's answer: what a schedule of queries costs, as a table and a curve for the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from private_distdd.privacy.accountants import epsilon
from private_distdd.privacy.calibration import affordable_queries, epsilon_after_each_query, largest_sample_rate
from private_distdd.privacy.events import SampledGaussian
from private_distdd.privacy.plan import Privacy
from private_distdd.rounding import rounded_down, rounded_up

_WIDTH, _HEIGHT = 60, 12
_BLOCKS = " ▁▂▃▄▅▆▇█"


def print_plan(privacy: Privacy, rounds: int, console: Console | None = None) -> None:
    """Print sigma, epsilon after some of the rounds by RDP and PRV, what else the same noise would pay, and a curve.

    Args:
        privacy: target or noise multiplier.
        rounds: T_max, at least 1.

    Raises:
        ConfigurationError: the target cannot be reached.
    """
    console = console or Console()
    plan = privacy.plan(rounds)
    sigma, rate, delta = plan.noise_multiplier, plan.sample_rate, plan.delta
    console.print(
        f"noise_multiplier {sigma:.5g}, sample_rate {rate:g}, {rounds} queries: "
        f"epsilon {rounded_up(plan.epsilon)} at delta {delta:g}, for each client",
        soft_wrap=True,
    )
    table = Table("queries", "epsilon by RDP", "epsilon by PRV")
    for count in sorted({max(1, round(rounds * share)) for share in (0.01, 0.1, 0.25, 0.5, 0.75, 1)} | {rounds}):
        event = [SampledGaussian(sigma, rate, count)]
        table.add_row(str(count), *(rounded_up(epsilon(event, delta, name)) for name in ("rdp", "prv")))
    console.print(table)
    budget = privacy.target_epsilon or plan.epsilon
    # A hair above, so that the target's own last digit does not cost a query.
    console.print(
        f"with this noise, epsilon {budget:g} pays {affordable_queries(sigma, budget * (1 + 1e-9), delta, rate)} "
        f"queries at this sample rate, or {rounds} at a sample rate of at most "
        f"{rounded_down(largest_sample_rate(sigma, budget * (1 + 1e-9), delta, rounds))}"
    )
    console.print(_curve(epsilon_after_each_query(sigma, rate, delta, rounds)))


def _curve(values: list[float]) -> str:
    """Epsilon (RDP) against queries in block characters, origin at the lower left."""
    width = min(_WIDTH, len(values))
    heights = [values[(i + 1) * len(values) // width - 1] / values[-1] * _HEIGHT for i in range(width)]
    lines = []
    for row in reversed(range(_HEIGHT)):
        label = f"{values[-1]:8.3g} " if row == _HEIGHT - 1 else " " * 9
        lines.append(label + "".join(_BLOCKS[min(8, max(0, round((height - row) * 8)))] for height in heights))
    return "\n".join([*lines, f"{'epsilon':>8} 1 ... {len(values)} queries (RDP)"])
