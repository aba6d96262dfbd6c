"""`private-distdd plan`: what a schedule costs, as schedule.py prints it."""

from __future__ import annotations

import argparse

from private_distdd.cli.options import (
    Commands,
    Help,
    add_json_option,
    add_privacy_options,
    asked_privacy,
    print_json,
)
from private_distdd.errors import ConfigurationError


def add(commands: Commands) -> None:
    """Put the command and its options into the parser."""
    plan = commands.add_parser(
        "plan",
        help="what a schedule costs, before anybody is asked",
        formatter_class=Help,
    )
    plan.add_argument("--rounds", type=int, default=100, metavar="T", help="queries to each client")
    add_privacy_options(plan, "one of these two is needed")
    add_json_option(plan)
    plan.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print what the schedule costs; 0.

    Raises:
        ConfigurationError: nothing to plan for was given, or it cannot be reached.
    """
    from private_distdd.cli.schedule import plan_record, print_plan

    privacy = asked_privacy(options)
    if privacy is None:
        raise ConfigurationError(
            "neither --target-epsilon nor --noise-multiplier", "one of the two", "Say what to plan for."
        )
    record = plan_record(privacy, options.rounds)
    if options.json:
        print_json(record)
    else:
        print_plan(record)
    return 0
