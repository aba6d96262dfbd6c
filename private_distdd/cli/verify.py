"""`private-distdd verify`: everything about a release that its receiver can check."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from private_distdd.cli.claims import claim_record
from private_distdd.cli.options import Commands, add_json_option, print_json
from private_distdd.errors import ReleaseError

if TYPE_CHECKING:
    from private_distdd.release.signatures import Signer


def add(commands: Commands) -> None:
    """Put the command and its options into the parser."""
    verify = commands.add_parser("verify", help="check a release you received: files, ledgers, and every epsilon")
    verify.add_argument("release", metavar="RELEASE", help="a release folder")
    verify.add_argument(
        "--owners",
        metavar="KEYS.JSON",
        help='fingerprints that the owners gave, {"hospital-a": "5f70..."}: each ledger must be signed by its owner',
    )
    add_json_option(verify)
    verify.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print what is wrong with a release, or its claim and who signed; 1 where something is wrong, else 0.

    Raises:
        ReleaseError: there is no such folder, or the owners' keys cannot be read.
    """
    from private_distdd.privacy.grade import in_words
    from private_distdd.privacy.plan import PrivacyPlan
    from private_distdd.release.release import Release, manifest_hash, verify_folder
    from private_distdd.release.signatures import read_owners

    if not Path(options.release).is_dir():
        raise ReleaseError(f"{options.release}", "a release folder", "There is no such folder: check the path.")
    owners = None if options.owners is None else read_owners(Path(options.owners))
    failures = verify_folder(options.release)
    release = None if failures else Release.load(options.release)
    if release is not None and owners is not None:
        failures = release.failures(owners)
    if options.json:
        record: dict[str, Any] = {"release": options.release, "failures": failures}
        if release is not None and not failures:
            signers = {name: signer._asdict() for name, signer in release.signers(owners or {}).items()}
            record |= {**claim_record(release), "signers": signers}
            record["manifest"] = manifest_hash(Path(options.release))
        print_json(record)
        return 1 if failures else 0
    if release is not None and owners is not None:
        for name, signer in release.signers(owners).items():
            if signer.known:
                print(f"client {name}: {signer}")
    for failure in failures:
        print(f"FAILED {failure}")
    if release is not None and not failures:
        print(f"{options.release}: every file, ledger line and epsilon checks out")
        print(f"the claim: {release.verdict}")
        if release.private:
            plan = PrivacyPlan.from_json(release.card["plan"])
            print(textwrap.fill(in_words(plan.schedule, max(release.epsilon.values()), plan.delta), 80))
        if owners is None:
            print(_unconfirmed(list(release.signers({}).values())))
        print(f"{manifest_hash(Path(options.release))}  manifest.json: compare it with what its maker told you")
    return 1 if failures else 0


def _unconfirmed(signers: list[Signer]) -> str:
    """How many ledgers are signed, and that nobody has said whose the keys are."""
    signed = [signer for signer in signers if signer.fingerprint is not None]
    if not signed:
        return "no ledger is signed"
    passing = sum(signer.throwaway for signer in signed)
    throwaway = f", {passing} of them with throw-away keys" if passing else ""
    return (
        f"{len(signed)} of {len(signers)} ledgers are signed{throwaway}; whose keys these are is unconfirmed (--owners)"
    )
