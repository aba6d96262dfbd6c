"""`private-distdd audit`: attacks on the messages behind a release, and a report."""

from __future__ import annotations

import argparse
from pathlib import Path

from private_distdd.cli.options import Commands, add_json_option, add_quiet_option, add_threads_option, print_json
from private_distdd.errors import ConfigurationError


def add(commands: Commands) -> None:
    """Put the command and its options into the parser."""
    audit = commands.add_parser(
        "audit", help="attack the messages behind a release, and bound epsilon from below: audit.json and audit.html"
    )
    audit.add_argument("target", metavar="RELEASE_OR_CONFIG", help="a release folder, or a plan's constants as JSON")
    audit.add_argument("--output", metavar="FOLDER", help="a new folder (default: RELEASE-audit, beside the release)")
    audit.add_argument("--quick", action="store_true", help="ten times fewer trials, under a minute")
    audit.add_argument("--seed", type=int, default=0, help="of noise and coins of the statistical audits (default 0)")
    add_json_option(audit)
    add_quiet_option(audit)
    add_threads_option(audit)
    audit.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the table of audits and write the report; 1 where a claim is refuted, else 0.

    Raises:
        ConfigurationError: the report's folder exists.
    """
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
