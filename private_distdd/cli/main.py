"""`private-distdd COMMAND`: the parser out of its commands, and errors as one line each.

A new command is a module with `add(commands)` and `run(options)` in this folder, and its place in `COMMANDS`.  Commands
import what they need when they run: help and parsing cost no import of torch.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import sys
import warnings
from collections.abc import Sequence

from private_distdd import __version__
from private_distdd.cli import audit, demo, distill, evaluate, flower, plan, site, sweep, verify
from private_distdd.cli.options import set_threads
from private_distdd.errors import NotPrivateWarning, PrivateDistDDError

COMMANDS = (demo, distill, evaluate, plan, verify, audit, sweep, site, flower)  # in the order of the help


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, and say an error in one line.

    Returns:
        0: success; 1: `verify`, `audit` or `sweep` finds failures; 2: an error; 130: Ctrl-C.
    """
    options = _parsed(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotPrivateWarning)  # the commands say it themselves
            if hasattr(options, "threads"):
                set_threads(options.threads)
            code: int = options.run(options)
            return code
    except PrivateDistDDError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:  # `Interrupted` says where the release is
        print(str(stop) or "stopped by Ctrl-C", file=sys.stderr)
        return 130


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; those that the command does not have end the program, with what may have been meant."""
    parser = _parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        command, name = options.command_parser, unknown[0].partition("=")[0]
        known = [text for text in command._option_string_actions if text.startswith("--")]
        meant = [text for text in known if name.strip("-") and name.strip("-") in text]
        meant = meant or difflib.get_close_matches(name, known)
        hint = f"; did you mean {' or '.join(meant)}?" if meant else ""
        command.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="private-distdd",
        description="Federated dataset distillation with a privacy bill that can be checked.",
        epilog="Start with `private-distdd demo`: it needs no data and takes a minute or two.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    for command_parser in commands.choices.values():
        command_parser.set_defaults(command_parser=command_parser)
    return parser
