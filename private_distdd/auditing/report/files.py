"""The files that an audit is written to, and its verdict."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from private_distdd.auditing.report.inversion import Inversion
from private_distdd.auditing.report.page import render_audit
from private_distdd.auditing.report.records import GATE_ALPHA, AuditRecord, as_json
from private_distdd.auditing.target import Target
from private_distdd.errors import ConfigurationError, ReleaseError
from private_distdd.files import write_file


def gate_bounds(record: AuditRecord) -> list[tuple[float, float, float]]:
    """(delta, lower bound, upper bound) of a record that bounds a finite claim, the lower one at the gate's level.

    A correct mechanism passes the truth at 95 % in one run of twenty, here in one of ten thousand.
    """
    pairs = zip(record.gate_lower, record.upper, strict=True) if record.gate_lower else ()
    return [(delta, low, high) for (delta, low), (_, high) in pairs if math.isfinite(high)]


def refuted(records: Sequence[AuditRecord]) -> bool:
    """Did a gate reject, or does a rigorous lower bound at the gate's level exceed its upper bound?"""
    crossed = any(low > high for record in records for _, low, high in gate_bounds(record))
    return crossed or any(record.rejected for record in records)


def report(target: Target, records: Sequence[AuditRecord]) -> Mapping[str, Any]:
    """The content of audit.json."""
    bounds = [
        {"audit": record.audit, "delta": delta, "lower": as_json(low), "upper": as_json(high), "holds": low <= high}
        for record in records
        for delta, low, high in gate_bounds(record)
    ]
    return {
        "format": "private_distdd.audit/1",
        "target": target.name,
        "manifest": target.manifest,
        "plan": target.plan.to_json(),
        "rejected": refuted(records),
        "gate": {"alpha": GATE_ALPHA, "bounds": bounds},
        "records": [record.to_json() for record in records],
    }


def write_report(
    target: Target, records: Sequence[AuditRecord], folder: str | Path, inversions: Sequence[Inversion] = ()
) -> Path:
    """audit.json and audit.html in a new folder, beside the release and never in it.

    Args:
        target: what was audited.
        records: what was found; those of `inversions` come behind them.
        folder: does not exist yet.
        inversions: attacks with pictures, all on the same images.

    Raises:
        ConfigurationError: the folder exists.
        ReleaseError: it cannot be written.
    """
    place = Path(folder)
    if place.exists():
        raise ConfigurationError(f"{place} exists", "a new folder", "Choose another --output.")
    content = report(target, [*records, *(inversion.record for inversion in inversions)])
    try:
        place.mkdir(parents=True)
        write_file(place / "audit.json", (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
        write_file(place / "audit.html", render_audit(content, inversions).encode())
    except OSError as error:
        raise ReleaseError(f"{place} cannot be written: {error}", "a writable place", "Write elsewhere.") from error
    return place
