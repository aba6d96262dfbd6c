"""An audit as a page: self-contained HTML that opens without a network."""

from __future__ import annotations

import html
from collections.abc import Mapping
from string import Template
from typing import Any

from private_distdd.auditing.records import AIM


def render_audit(report: Mapping[str, Any]) -> str:
    """The page of one report, the same text for the same report; all of it escaped.

    Args:
        report: as `suite.report` makes it.
    """
    records = report["records"]
    rejected = [record["audit"] for record in records if record["rejected"]]
    source = "a plan" if report["manifest"] is None else f"the release with manifest {report['manifest']}"
    verdict = (
        f"REFUTED by {', '.join(rejected)}: do not rely on this claim."
        if rejected
        else "Not refuted. No audit here found a message that the claim does not allow."
    )
    return _PAGE.substitute(
        target=_safe(report["target"]),
        source=_safe(source),
        tone="bad" if rejected else "good",
        verdict=_safe(verdict),
        plan=_safe(", ".join(f"{name} = {value}" for name, value in report["plan"].items())),
        bars="".join(map(_bar, records)),
        rows="".join(map(_row, records)),
    )


def _safe(value: object) -> str:
    return html.escape("".join(c if c.isprintable() else "\ufffd" for c in str(value)))


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
    share = 100 * min(1.0, low / high) if high > 0 else 0.0
    return (
        f"<tr><th>{_safe(record['audit'])}</th><td class=bar><div style='width:{share:.1f}%'></div></td>"
        f"<td>{low:.3f} &le; {high:.3f}</td><td>{_safe(record['kind'])}</td></tr>"
    )


def _row(record: Mapping[str, Any]) -> str:
    findings = "".join(f"<li>{_safe(line)}</li>" for line in record["findings"])
    figures = ", ".join(f"{name} {_figure(value)}" for name, value in record["figures"].items())
    tone, verdict = ("bad", "refuted") if record["rejected"] else ("good", "not refuted")
    chance = "" if record["kind"] == "deterministic" else f" at level {record['gate_alpha']:g}"
    seed = "the operating system's randomness" if record["seed"] is None else f"seed {record['seed']}"
    return (
        f"<section><h3>{_safe(record['audit'])} <span class={tone}>{verdict}</span></h3>"
        f"<p><b>Claim:</b> {_safe(record['claim'])}.</p>"
        f"<p><b>Computed:</b> {_safe(record['statistic'])}; {record['trials']:,} trials, "
        f"{_safe(record['kind'])}{chance}, {seed}, {record['seconds']:.1f} s.</p>"
        f"<p><b>Adversary:</b> {_safe(record['adversary'])}. <b>Assumes:</b> {_safe(record['assumptions'])}.</p>"
        + (f"<p><b>Figures:</b> {_safe(figures)}.</p>" if figures else "")
        + (f"<ul class=bad>{findings}</ul>" if findings else "")
        + "</section>"
    )


def _figure(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


_PAGE = Template(
    """<!doctype html>
<html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width, initial-scale=1">
<title>Audit of $target</title>
<style>
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #d8dee4}
.bar{width:45%}.bar div{background:#2f6fb2;height:1rem;min-width:1px}
.good{color:#1a6b34}.bad{color:#a31515}.verdict{font-size:1.2rem;font-weight:600}
section{border-top:1px solid #d8dee4;margin-top:1rem}h3 span{font-weight:400;font-size:.9rem}
code,.plan{overflow-wrap:anywhere}
</style>
<h1>Audit of $target</h1>
<p class="plan">Attacked: the messages of this library under the constants of $source. $plan</p>
<p class="verdict $tone">$verdict</p>
<h2>Lower against upper bound on epsilon, at delta = 1e-5</h2>
<table>$bars</table>
<p>A bar is the part of the accountant's epsilon that an attack reached, at 95 %. A lower bound of this kind passes the
truth in up to 5 % of runs on a sound mechanism; whether a claim is refuted is decided at 1e-4 instead.</p>
<h2>What was and what was not shown</h2>
<ul>
<li>The attacks ran on this library's own code here, with these constants, on canaries and noise images. They did not
see the clients' data, nor the messages of that run: those are gone.</li>
<li>An attack that fails proves nothing about a better attack. Only the theorem gives the upper bound.</li>
<li>Clipping alone protects nothing: the bound rests on the noise.</li>
<li>That the clients ran this code, and drew their noise, is trusted.</li>
</ul>
<h2>The audits</h2>
$rows
</html>
"""
)
