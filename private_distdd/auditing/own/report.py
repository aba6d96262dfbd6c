"""The report of an owner on their own examples: for the owner alone, in files that nobody else may read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from private_distdd.auditing.own.membership import OwnAudit
from private_distdd.auditing.report.roc import roc_figure
from private_distdd.errors import ConfigurationError, ReleaseError
from private_distdd.files import write_file
from private_distdd.release.html import render

PRIVATE = (
    "FOR THE OWNER OF THE DATA ALONE: this report is about single examples and carries no privacy guarantee. Do not "
    "hand it on, nor any figure in it."
)
MESSAGES = (
    "Messages were not looked at. A site keeps its last message only, beside its ledger, so that a lost reply can be "
    "sent again; of the query it keeps a digest, not the network that was asked about, without which no example can be "
    "sought in a message. `private-distdd audit RELEASE` attacks this library's messages under the same constants."
)


def own_report(audit: OwnAudit, release: str, manifest: str) -> Mapping[str, Any]:
    """The content of own-audit.json.

    Args:
        audit: what was found.
        release: the folder, as the owner named it.
        manifest: SHA-256 of its manifest, in hexadecimal.
    """
    compared, info = audit.compared, audit.compared.members.dataset.info
    area, low, high = audit.control
    return {
        "format": "private_distdd.own_audit/1",
        "private": PRIVATE,
        "release": release,
        "manifest": manifest,
        "verdict": audit.verdict,
        "exposes": audit.exposes,
        "rejected": audit.rejected,
        "comparable": audit.comparable,
        "members": len(compared.members),
        "held_out": len(compared.others),
        "pairs": len(compared.pairs),
        "in_both": compared.in_both,
        "copies": {"members": audit.copies[0], "held_out": audit.copies[1]},
        "control": {"AUC": area, "AUC low": low, "AUC high": high},
        "messages": MESSAGES,
        "records": [record.to_json() for record in audit.records],
        "exposed": [asdict(one) | {"label": info.class_name(one.label)} for one in audit.exposed],
    }


def write_own_report(content: Mapping[str, Any], folder: Path) -> None:
    """own-audit.json and own-audit.html in a new folder, all of it for its owner's account alone.

    Raises:
        ConfigurationError: the folder exists.
        ReleaseError: it cannot be written.
    """
    if folder.exists():
        raise ConfigurationError(f"{folder} exists", "a new folder", "Choose another --output.")
    page = render(
        "own_audit.html",
        title=f"For the owner alone: own examples in {content['release']}",
        report=content,
        curves=list(map(roc_figure, content["records"])),
    )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
        write_file(folder / "own-audit.json", (json.dumps(content, indent=2, allow_nan=False) + "\n").encode(), 0o600)
        write_file(folder / "own-audit.html", page.encode(), 0o600)
    except OSError as error:
        raise ReleaseError(f"{folder} cannot be written: {error}", "a writable place", "Write elsewhere.") from error
