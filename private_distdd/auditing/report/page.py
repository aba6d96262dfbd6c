"""An audit as a page: self-contained HTML that opens without a network; `private_distdd/templates` has the words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from private_distdd.auditing.report.inversion import Inversion
from private_distdd.auditing.report.pictures import lessons, rows
from private_distdd.auditing.report.records import AIM
from private_distdd.auditing.report.roc import roc_figure
from private_distdd.release.html import render


def render_audit(report: Mapping[str, Any], inversions: Sequence[Inversion] = ()) -> str:
    """The page of one report, the same text for the same report; all of it escaped.

    Args:
        report: as `suite.report` makes it.
        inversions: attacks on the same images, to be shown as pictures.
    """
    crossed = [bound for bound in report["gate"]["bounds"] if not bound["holds"]]
    rejected = [record["audit"] for record in report["records"] if record["rejected"]]
    return render(
        "audit.html",
        title=f"Audit of {report['target']}",
        report=report,
        rejected=[*rejected, *(f"{bound['audit']} (bound at delta = {bound['delta']:g})" for bound in crossed)],
        crossed=len(crossed),
        bars=list(_bars(report["records"])),
        curves=list(map(roc_figure, report["records"])),
        rows=rows(inversions),
        lessons=lessons(inversions),
    )


def render_inversions(title: str, parts: Mapping[str, Sequence[Inversion]]) -> str:
    """A page of inversions alone; all of it escaped.

    Args:
        title: of the page.
        parts: by heading, attacks on the same images.
    """
    every = [inversion for part in parts.values() for inversion in part]
    shown = {heading: rows(part) for heading, part in parts.items()}
    return render("inversions.html", title=title, parts=shown, lessons=lessons(every))


def _bars(records: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], float, float]]:
    """Records that bound a claim, with both bounds at delta = 1e-5."""
    for record in records:
        for entry in record["epsilon"]:
            if entry["delta"] == AIM and math.isfinite(high := float(entry["upper"])):
                yield record, float(entry["lower"]), high
