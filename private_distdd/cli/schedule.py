"""The planner's answer: what a schedule of queries costs, in words and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from private_distdd.privacy.calibration import affordable_queries, largest_sample_rate
from private_distdd.privacy.grade import grade_of, in_words
from private_distdd.privacy.plan import Privacy
from private_distdd.rounding import rounded_down, rounded_up

_WIDTH = 40  # characters of the longest bar


def plan_record(privacy: Privacy, rounds: int) -> dict[str, Any]:
    """What a schedule is and costs, what that means, and what else the same noise would pay.

    Args:
        privacy: target or noise multiplier.
        rounds: T_max, at least 1.

    Raises:
        ConfigurationError: the target cannot be reached.
    """
    plan = privacy.plan(rounds)
    sigma, rate, delta = plan.noise_multiplier, plan.sample_rate, plan.delta
    counts = sorted({max(1, round(rounds * share)) for share in (0.01, 0.1, 0.25, 0.5, 0.75, 1)} | {rounds})
    budget = privacy.target_epsilon or plan.epsilon
    allowed = budget * (1 + 1e-9)  # a hair above, so that the target's own last digit does not cost a query
    return {
        "plan": plan.to_json(),
        "epsilon": plan.epsilon,
        "grade": grade_of(plan.epsilon, delta),
        "in_words": in_words(plan.schedule, plan.epsilon, delta),
        "epsilon_after": {count: plan.epsilon_after(count) for count in counts},
        "budget": budget,
        "affordable_queries": affordable_queries(sigma, allowed, delta, rate),
        "largest_sample_rate": largest_sample_rate(sigma, allowed, delta, rounds),
    }


def print_plan(record: Mapping[str, Any], console: Console | None = None) -> None:
    """Print a `plan_record` as sentences and a table."""
    console = console or Console()
    plan, epsilon = record["plan"], record["epsilon"]
    rounds = plan["max_queries"]
    console.print(
        f"With noise multiplier {plan['noise_multiplier']:.5g} and sample rate {plan['sample_rate']:g}, {rounds} "
        f"queries to each client cost epsilon {rounded_up(epsilon)} at delta {plan['delta']:g}: "
        f"{record['grade']} privacy.\n{record['in_words']}"
    )
    table = Table("queries", "epsilon", "")
    for count, spent in record["epsilon_after"].items():
        table.add_row(str(count), rounded_up(spent), "█" * round(_WIDTH * (spent / epsilon if epsilon else 0.0)))
    console.print(table)
    console.print(
        f"With this noise, epsilon {record['budget']:g} pays {record['affordable_queries']} queries at this sample "
        f"rate, or {rounds} at a sample rate of at most {rounded_down(record['largest_sample_rate'])}."
    )
