"""An audit as a page: self-contained HTML that opens without a network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from string import Template
from typing import Any

from private_distdd.auditing.report.inversion import Inversion
from private_distdd.auditing.report.pictures import MEANING, moral, pictures, shown_inversions
from private_distdd.auditing.report.records import AIM
from private_distdd.auditing.report.roc import roc_curve
from private_distdd.release.html import safe
from private_distdd.rounding import rounded_down, rounded_up


def render_audit(report: Mapping[str, Any], inversions: Sequence[Inversion] = ()) -> str:
    """The page of one report, the same text for the same report; all of it escaped.

    Args:
        report: as `suite.report` makes it.
        inversions: attacks on the same images, to be shown as pictures.
    """
    records, gate = report["records"], report["gate"]["bounds"]
    rejected = [record["audit"] for record in records if record["rejected"]]
    rejected += [f"{bound['audit']} (bound at delta = {bound['delta']:g})" for bound in gate if not bound["holds"]]
    source = "a plan" if report["manifest"] is None else f"the release with manifest {report['manifest']}"
    verdict = (
        f"REFUTED by {', '.join(rejected)}: do not rely on this claim."
        if rejected
        else "Not refuted. No audit here found a message that the claim does not allow."
    )
    body = _AUDIT.substitute(
        target=safe(report["target"]),
        source=safe(source),
        tone="bad" if rejected else "good",
        verdict=safe(verdict),
        plan=safe(", ".join(f"{name} = {value}" for name, value in report["plan"].items())),
        bars="".join(map(_bar, records)),
        gate=_gate(gate),
        inversions=shown_inversions(inversions),
        curves="".join(map(roc_curve, records)),
        rows="".join(map(_row, records)),
    )
    return _PAGE.substitute(title=f"Audit of {safe(report['target'])}", body=body)


def render_inversions(title: str, parts: Mapping[str, Sequence[Inversion]]) -> str:
    """A page of inversions alone; all of it escaped.

    Args:
        title: of the page.
        parts: by heading, attacks on the same images.
    """
    sections = (f"<h2>{safe(heading)}</h2>{pictures(part)}" for heading, part in parts.items())
    every = [inversion for part in parts.values() for inversion in part]
    body = f"<h1>{safe(title)}</h1>{moral(every)}{''.join(sections)}{MEANING}"
    return _PAGE.substitute(title=safe(title), body=body)


def _gate(bounds: Sequence[Mapping[str, Any]]) -> str:
    crossed = sum(not bound["holds"] for bound in bounds)
    tone, verdict = ("bad", f"{crossed} do not") if crossed else ("good", "all do")
    return f"<span class={tone}>{len(bounds)} bounds, {verdict}</span>"


def _at_aim(record: Mapping[str, Any]) -> tuple[float, float] | None:
    """The bounds at delta = 1e-5, as numbers."""
    for entry in record["epsilon"]:
        if entry["delta"] == AIM:
            return float(entry["lower"]), float(entry["upper"])
    return None


def _bar(record: Mapping[str, Any]) -> str:
    found = _at_aim(record)
    if found is None:
        return ""
    low, high = found
    if math.isinf(high):  # nothing was claimed
        return ""
    share = 100 * min(1.0, low / high) if high > 0 else 0.0
    return (
        f"<tr><th scope=row>{safe(record['audit'])} <small>{safe(record['kind'])}</small>"
        f"<div class=bar style='width:{share:.1f}%'></div></th>"
        f"<td>{rounded_down(low)} &le; {rounded_up(high)}</td></tr>"
    )


def _row(record: Mapping[str, Any]) -> str:
    findings = "".join(f"<li>{safe(line)}</li>" for line in record["findings"])
    figures = ", ".join(f"{name} {_figure(value)}" for name, value in record["figures"].items())
    tests = record["kind"] != "descriptive"
    tone, verdict = ("bad", "refuted") if record["rejected"] else ("good", "not refuted" if tests else "describes")
    chance = f" at level {record['gate_alpha']:g}" if tests and record["kind"] != "deterministic" else ""
    seed = "the operating system's randomness" if record["seed"] is None else f"seed {record['seed']}"
    return (
        f"<section><h3>{safe(record['audit'])} <span class={tone}>{verdict}</span></h3>"
        f"<p><b>Claim:</b> {safe(record['claim'])}.</p>"
        f"<p><b>Computed:</b> {safe(record['statistic'])}; {record['trials']:,} trials, "
        f"{safe(record['kind'])}{chance}, {seed}, {record['seconds']:.1f} s.</p>"
        f"<p><b>Adversary:</b> {safe(record['adversary'])}. <b>Assumes:</b> {safe(record['assumptions'])}.</p>"
        + (f"<p><b>Figures:</b> {safe(figures)}.</p>" if figures else "")
        + (f"<ul class=bad>{findings}</ul>" if findings else "")
        + "</section>"
    )


def _figure(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


_PAGE = Template(
    """<!doctype html>
<html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #d8dee4}
.bar{background:#2f6fb2;height:.6rem;min-width:1px}.wide{overflow-x:auto}
.good{color:#1a6b34}.bad{color:#a31515}.verdict{font-size:1.2rem;font-weight:600}
section{border-top:1px solid #d8dee4;margin-top:1rem}h3 span{font-weight:400;font-size:.9rem}
h1,code,.plan{overflow-wrap:anywhere}
small{font-weight:400}.pictures small{display:block}
.pictures{width:auto}.pictures td{padding:.15rem}
.pictures img{display:block;width:4.5rem;image-rendering:pixelated;border:1px solid #d8dee4}
.bars th{width:100%}.bars td{white-space:nowrap;padding-right:0}
.curves{display:flex;flex-wrap:wrap;gap:0 2rem}figure{flex:1 1 18rem;margin:1rem 0}
svg{width:100%;max-width:26rem;font:11px system-ui,sans-serif}
rect{fill:none;stroke:#8c959f}polyline{fill:none;stroke-width:2}
polyline.attack{stroke:#2f6fb2}polyline.ceiling{stroke:#a31515;stroke-dasharray:6 3}
polyline.guess{stroke:#8c959f;stroke-width:1;stroke-dasharray:2 3}
.key{display:inline-block;width:1.6rem;border-top:2px solid #2f6fb2;vertical-align:middle}
.key.ceiling{border-top:2px dashed #a31515}.key.guess{border-top:1px dotted #8c959f}
</style>
$body
</html>
"""
)

_AUDIT = Template(
    """<h1>Audit of $target</h1>
<p class="plan">Attacked: the messages of this library under the constants of $source. $plan</p>
<p class="verdict $tone">$verdict</p>
<h2>Lower against upper bound on epsilon, at delta = 1e-5</h2>
<table class=bars>$bars</table>
<p>A bar is the part of the accountant's epsilon that an attack reached, at 95 %. A lower bound of this kind passes the
truth in up to 5 % of runs on a sound mechanism, so one that does is no refutation.</p>
<p>Checked instead: does each rigorous lower bound, taken at 1e-4, stay below the upper bound, at each delta? $gate.</p>
$inversions
<h2>Was this example there?</h2>
<p>Public digits, each held by a fair coin, sought in one message. Both axes are logarithmic: what matters is how many
members are found while hardly anybody is accused wrongly. The curve of an attack describes one sample and may wander
over the ceiling a little by chance.</p>
<div class=curves>$curves</div>
<h2>What was and what was not shown</h2>
<ul>
<li>The attacks ran on this library's own code here, with these constants, on canaries, noise images and public digits.
They did not see the clients' data, nor the messages of that run: those are gone.</li>
<li>An attack that fails proves nothing about a better attack. Only the theorem gives the upper bound.</li>
<li>Clipping alone protects nothing: the bound rests on the noise.</li>
<li>That the clients ran this code, and drew their noise, is trusted.</li>
</ul>
<h2>The audits</h2>
$rows
"""
)
