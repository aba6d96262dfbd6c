"""`private-distdd audit --data`: the owner's own examples, looked for in a release; the report stays with the owner."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from private_distdd.cli.options import data_arguments, print_json
from private_distdd.errors import ConfigurationError


def run_own(options: argparse.Namespace) -> int:
    """Print what the release tells about the owner's examples and write the report; 1 where it tells something, else 0.

    Raises:
        ConfigurationError: the report's folder exists, or lies in the release.
        ReleaseError: the release cannot be read, or does not verify.
        DataError: the examples are not of the release's kind, or too few.
    """
    from private_distdd.auditing.own.examples import own_and_held_out
    from private_distdd.auditing.own.membership import own_membership
    from private_distdd.auditing.own.report import PRIVATE, own_report, write_own_report
    from private_distdd.data.info import DatasetInfo
    from private_distdd.files import numbered
    from private_distdd.privacy.plan import PrivacyPlan
    from private_distdd.privacy.tradeoff import TradeoffCurve
    from private_distdd.release.release import Release, manifest_hash

    source = Path(options.target)
    release = Release.load(source)
    release.verify()
    # Not beside the release, as other reports: who may read the release may not read this.
    folder = numbered(Path.cwd(), "own-audit") if options.output is None else Path(options.output)
    if folder.exists() or source.resolve() in folder.resolve().parents:  # before the work, not after it
        raise ConfigurationError(
            f"{folder} as the report's folder", "a new folder outside the release", "Choose another --output."
        )
    info = DatasetInfo.from_json(release.card["data"])
    compared = own_and_held_out(options.data, options.held_out, info, options.seed, **data_arguments(options))
    plan = release.card["plan"] if release.private else None
    curve = None if plan is None else TradeoffCurve([PrivacyPlan.from_json(plan).schedule])
    networks, epochs = (1, 30) if options.quick else (4, 100)
    how = {"networks": networks, "epochs": epochs, "seed": options.seed}
    audit = own_membership(release, compared, curve, **how, progress=not options.quiet)
    content = own_report(audit, options.target, manifest_hash(source))
    write_own_report(content, folder)
    print(PRIVATE, file=sys.stderr)
    if options.json:
        print_json(content)
    else:
        print(f"{len(compared.members)} contributed examples, {len(compared.others)} held out; {audit.verdict}")
        for record in audit.records:
            shown = {name: f"{value:.3f}" for name, value in record.figures.items()}
            print(f"  by {record.statistic}")
            for name, allowed in (("AUC", "AUC allowed"), ("TPR at 1 % FPR", "ceiling at 1 % FPR")):
                between = f"{shown[f'{name} low']} to {shown[f'{name} high']}"
                print(f"    {name} {shown[name]} ({between} at 95 %; the claim allows {shown[allowed]})")
        print(f"next: open {folder / 'own-audit.html'}; nobody but you can read it")
    return 1 if audit.exposes else 0
