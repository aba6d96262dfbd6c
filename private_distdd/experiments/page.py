"""A sweep as a page: the frontier and the table behind it, self-contained HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from string import Template
from typing import Any

from private_distdd.encoding import to_json
from private_distdd.experiments.build import TEST
from private_distdd.experiments.frontier import Mark, frontier, key
from private_distdd.experiments.results import Point, points
from private_distdd.experiments.run import DONE, Record
from private_distdd.release.bill import as_number
from private_distdd.release.colours import COLOURS
from private_distdd.release.html import chips, safe
from private_distdd.rounding import in_bytes, rounded_up

_APART = "<p class=small>Lines stand a little apart, so that bars at one ε can be told.</p>"
_SCORED = {
    False: "Accuracy on {} examples that were <b>held out</b> of the training set, every fourth of each class; no "
    "client held one of them. Choose by these. The test set was not scored.",
    True: "Accuracy on the {} examples of the <b>test set</b>: these figures are for reporting what was chosen before. "
    "A choice made by them is fitted to the test set.",
}


def render_sweep(title: str, config: Mapping[str, Any], cells: int, records: Sequence[Record]) -> str:
    """The page of what was run so far, the same text for the same records; all of it escaped.

    Args:
        title: the sweep's name.
        config: as it was written, as JSON.
        cells: how many it means.
        records: of those that were run, in the order of the cells.
    """
    found = points(records)
    done = [record for record in records if record["status"] == DONE]
    failed = [record for record in records if record["status"] != DONE]
    lines: dict[str, list[Mark]] = {}
    for point in found:
        for name, suffix in (("accuracy", ""), ("teacher_accuracy", "; its teacher")):
            if score := point.score(name):
                lines.setdefault(point.label + suffix, []).append(Mark(point.epsilon(), *score))
    versions = {to_json(record["versions"]): record["versions"] for record in records}
    return _PAGE.substitute(
        title=safe(title),
        state=f"{len(done)} of {cells} cells done{f', {len(failed)} failed' if failed else ''}",
        scored="".join(f"<p>{line}</p>" for line in _scored(done)),
        figure=f"<figure>{frontier(lines)}<figcaption>{key(list(lines))}{_APART}</figcaption></figure>"
        if lines
        else "",
        spent=_spent(done),
        rows="".join(map(_row, found)),
        failed="".join(
            f"<p class=bad><b>{safe(record['id'])}</b>: {safe(record['error'])} <small>{safe(record['settings'])}"
            "</small></p>"
            for record in failed
        ),
        config=chips(config),
        versions="<br>".join(map(chips, versions.values())),
    )


def _scored(done: Sequence[Record]) -> list[str]:
    seen = dict.fromkeys((record["scored_on"] == TEST, record["scored_examples"]) for record in done)
    return [_SCORED[on_test].format(f"{count:,}") for on_test, count in seen]


def _spent(done: Sequence[Record]) -> str:
    """What all cells cost together, if they were made from one private data set."""
    if not done:
        return ""
    total = sum((as_number(record["epsilon"]) for record in done), 0.0)
    if math.isinf(total):
        return "Some of these were made without privacy, so all of them together promise nothing."
    delta = sum(record["delta"] for record in done)
    return f"By simple composition these {len(done)} cost at most \u03b5 = {rounded_up(total)} at \u03b4 = {delta:.3g}."


def _row(point: Point) -> str:
    done = point.done
    if not done:
        return f"<tr><th scope=row>{safe(point.label)}</th><td colspan=8 class=bad>failed</td></tr>"
    teacher = point.score("teacher_accuracy")
    seconds = sum(sum(record["seconds"].values()) for record in done) / len(done)
    delta = done[0]["delta"]
    cells = (
        rounded_up(point.epsilon("epsilon_rdp")),
        rounded_up(point.epsilon("epsilon_prv")),
        "" if delta is None else f"{delta:g}",
        shown_score(point.score()),
        shown_score(teacher),
        f"{len(done)} of {len(point.records)}" if len(done) < len(point.records) else str(len(done)),
        " / ".join(in_bytes(max(record[name] for record in done)) for name in ("bytes_sent", "bytes_received")),
        f"{seconds:.3g}",
    )
    return f"<tr><th scope=row>{safe(point.label)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def shown_score(score: tuple[float, float | None] | None) -> str:
    """A mean and its spread in per cent; "" for none."""
    if score is None:
        return ""
    mean, spread = score
    return f"{mean:.1%}" if spread is None else f"{mean:.1%} \u00b1 {100 * spread:.1f}"


_PAGE = Template(
    """<!doctype html>
<html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width, initial-scale=1">
<title>Sweep: $title</title>
<style>
"""
    + COLOURS
    + """body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;
 color:var(--ink);background:var(--ground)}
table{border-collapse:collapse;width:100%;font-size:.9rem}.wide{overflow-x:auto}
th,td{text-align:right;padding:.3rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
th:first-child{text-align:left}td{white-space:nowrap}
figure{margin:1rem 0}figure>svg{width:100%;max-width:44rem}figcaption svg{vertical-align:middle}
@media (max-width:639px){figure>svg{font-size:15px}}
.warning{border-left:8px solid var(--bad-edge);padding:.4rem 1rem;background:var(--bad-ground)}.bad{color:var(--bad)}
small,.small{font-size:.82rem;color:var(--soft);overflow-wrap:anywhere}
</style>
<h1>Sweep: $title</h1>
<p>$state.</p>
$scored
$figure
<p class=warning><b>A choice spends privacy.</b> Each cell has ledgers of its own, and each \u03b5 here is the
bill of one cell, as if it were the only one. Who looks at several cells made from the same private examples has seen
all of them, and their costs add up. $spent Choosing by accuracy on private examples is one more release, and no ledger
here counts it. Choose on public data, or count every cell.</p>
<h2>The table behind it</h2>
<div class=wide><table>
<thead><tr><th>method<th>\u03b5 by RDP<th>\u03b5 by PRV<th>\u03b4<th>accuracy<th>its teacher<th>seeds
<th>bytes sent / received<th>seconds</tr></thead>
<tbody>$rows</tbody>
</table></div>
<p class=small>One row for cells that differ in their seed only. Accuracy is that of fresh networks trained on S, and
beside it that of the teacher where the release has one: the mean over seeds, each of which is the mean of its networks,
\u00b1 the standard deviation over seeds; one seed has none. Bytes are those of the busiest client, ledgers included.
Seconds are those of one cell on the clock, evaluation included.</p>
$failed
<h2>The configuration</h2>
<p class=small>$config</p>
<p class=small><b>Versions:</b> $versions</p>
</html>
"""
)
