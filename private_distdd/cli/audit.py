"""`private-distdd audit`: attacks on the messages behind a release, or on what it tells of the owner's own examples."""

from __future__ import annotations

import argparse
from pathlib import Path

from private_distdd.cli.options import (
    Commands,
    add_data_options,
    add_json_option,
    add_quiet_option,
    add_threads_option,
    data_arguments,
    print_json,
)
from private_distdd.errors import ConfigurationError


def add(commands: Commands) -> None:
    """Put the command and its options into the parser."""
    audit = commands.add_parser(
        "audit",
        help="attack the messages behind a release, and bound epsilon from below: audit.json and audit.html; or, with "
        "--data, look for your own examples in a release",
    )
    audit.add_argument("target", metavar="RELEASE_OR_CONFIG", help="a release folder, or a plan's constants as JSON")
    audit.add_argument("--output", metavar="FOLDER", help="a new folder (default: RELEASE-audit, beside the release)")
    audit.add_argument("--quick", action="store_true", help="ten times fewer trials, under a minute")
    audit.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of the statistical audits' noise and coins, or of --data's networks (default 0)",
    )
    add_json_option(audit)
    add_quiet_option(audit)
    add_threads_option(audit)
    own = audit.add_argument_group(
        "your own examples",
        "run by their owner: is membership told by the release?  The report (own-audit-001/) is for the owner alone.",
    )
    add_data_options(own, None, "what you contributed: the training part of", "--data")
    own.add_argument(
        "--held-out",
        metavar="DATA",
        help="comparable examples that you did not contribute, all parts of it (default: the test part of --data)",
    )
    audit.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the table of audits and write the report; 1 where a claim is refuted or examples show, else 0.

    Raises:
        ConfigurationError: the report's folder exists, or is no place for it; options of data without `--data`.
    """
    if options.data is not None:
        from private_distdd.cli.audit_own import run_own

        return run_own(options)
    beside = {name for name, value in data_arguments(options).items() if value} | (
        {"held_out"} if options.held_out else set()
    )
    if beside:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(beside))
        raise ConfigurationError(f"{names} without --data", "these options beside --data", "Add --data, or drop them.")
    from private_distdd.auditing.report.files import refuted, report, write_report
    from private_distdd.auditing.report.records import table
    from private_distdd.auditing.suite import audit, invert
    from private_distdd.auditing.target import Target

    target = Target.read(options.target)
    source = Path(options.target).resolve()
    folder = Path(options.output or source.with_name(f"{source.stem}-audit"))
    if folder.exists():  # before the work, not after it
        raise ConfigurationError(f"{folder} exists", "a new folder", "Choose another --output.")
    how, progress = (target, options.quick, options.seed), not options.quiet
    records, inversions = audit(*how, progress=progress), invert(*how, progress=progress)
    every = [*records, *(inversion.record for inversion in inversions)]
    write_report(target, records, folder, inversions)
    if options.json:
        print_json(report(target, every))
    else:
        print(table(every))
        print("bounds at delta = 1e-5 and 95 %; a claim is rejected at 1e-4")
        print(f"next: open {folder / 'audit.html'}")
    return 1 if refuted(every) else 0
