"""`private-distdd demo`: see demonstration.py."""

from __future__ import annotations

import argparse

from private_distdd.cli.options import Commands, add_json_option, add_quiet_option, add_threads_option


def add(commands: Commands) -> None:
    """Put the command and its options into the parser."""
    demo = commands.add_parser("demo", help="distil scikit-learn's digits from 5 clients at epsilon 8, and compare")
    demo.add_argument("--output", metavar="FOLDER", help="where the release goes (default: a fresh demo-001, ...)")
    demo.add_argument("--seed", type=int, default=0, help="steers everything public, never the noise (default 0)")
    add_json_option(demo)
    add_quiet_option(demo)
    add_threads_option(demo)
    demo.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the demonstration; 0."""
    from private_distdd.cli.demonstration import run_demo

    run_demo(options.output, options.seed, as_json=options.json, progress=not options.quiet)
    return 0
