"""The planner's answer: what a schedule of queries costs, in words and as a table."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from private_distdd.privacy.calibration import affordable_queries, largest_sample_rate
from private_distdd.privacy.grade import grade_of, in_words
from private_distdd.privacy.plan import Privacy
from private_distdd.rounding import rounded_down, rounded_up

_WIDTH = 40  # characters of the longest bar


def print_plan(privacy: Privacy, rounds: int, console: Console | None = None) -> None:
    """Print what the schedule is and costs, what that means, what else the same noise would pay, and a table.

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
        f"With noise multiplier {sigma:.5g} and sample rate {rate:g}, {rounds} queries to each client cost epsilon "
        f"{rounded_up(plan.epsilon)} at delta {delta:g}: {grade_of(plan.epsilon, delta)} privacy.\n"
        f"{in_words(plan.schedule, plan.epsilon, delta)}"
    )
    table = Table("queries", "epsilon", "")
    for count in sorted({max(1, round(rounds * share)) for share in (0.01, 0.1, 0.25, 0.5, 0.75, 1)} | {rounds}):
        spent = plan.epsilon_after(count)
        share = spent / plan.epsilon if plan.epsilon else 0.0
        table.add_row(str(count), rounded_up(spent), "█" * round(_WIDTH * share))
    console.print(table)
    budget = privacy.target_epsilon or plan.epsilon
    # A hair above, so that the target's own last digit does not cost a query.
    console.print(
        f"With this noise, epsilon {budget:g} pays {affordable_queries(sigma, budget * (1 + 1e-9), delta, rate)} "
        f"queries at this sample rate, or {rounds} at a sample rate of at most "
        f"{rounded_down(largest_sample_rate(sigma, budget * (1 + 1e-9), delta, rounds))}."
    )
