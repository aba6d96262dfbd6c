"""`private-distdd verify`: everything about a release that its receiver can check."""

from __future__ import annotations

import argparse
from pathlib import Path

from private_distdd.cli.claims import claim
from private_distdd.cli.options import Commands
from private_distdd.errors import ReleaseError


def add(commands: Commands) -> None:
    """Put the command and its options into the parser."""
    verify = commands.add_parser("verify", help="check a release you received: files, ledgers, and every epsilon")
    verify.add_argument("release", metavar="RELEASE", help="a release folder")
    verify.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print what is wrong with a release, or its claim; 1 where something is, else 0.

    Raises:
        ReleaseError: there is no such folder.
    """
    from private_distdd.release.release import Release, manifest_hash, verify_folder

    if not Path(options.release).is_dir():
        raise ReleaseError(f"{options.release}", "a release folder", "There is no such folder: check the path.")
    failures = verify_folder(options.release)
    for failure in failures:
        print(f"FAILED {failure}")
    if not failures:
        print(f"{options.release}: every file, ledger line and epsilon checks out")
        print(f"the claim: {claim(Release.load(options.release))}")
        print(f"{manifest_hash(Path(options.release))}  manifest.json: compare it with what its maker told you")
    return 1 if failures else 0
