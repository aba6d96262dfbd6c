"""The card as a page: self-contained HTML that opens without a network, on a phone, or on one sheet of paper."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from string import Template
from typing import Any

from private_distdd.privacy.accountants import PRV
from private_distdd.privacy.accountants import delta as delta_at
from private_distdd.privacy.spec import PrivacyPlan
from private_distdd.reporting.rounding import rounded_up

_WEAK = 10  # an epsilon above it is called weak
_FULL_HEADS = 10  # up to so many clients the ledgers' heads are shown in full
_SHORT_HEAD = 16  # hexadecimal digits shown of a head where there are more clients
_CROWD = 20  # from so many clients on, print is smaller

_NOT_CLAIMED = (
    "Not client level: the unit is one example. One person's records, or records at several clients, compose.",
    "Not replace-one: exchanging an example for another has its own, larger number.",
    "No amplification by drawing clients: the server sees who takes part.",
    "Nothing about timing: when and how fast a client answers is outside.",
    "Not proved here: that noise and coins were really drawn, and that each ledger is complete. That is trusted.",
)
_NOTHING = ("Nothing is claimed: this set may reveal the examples that it was made from.",)


def render_card(card: Mapping[str, Any]) -> str:
    """The page of one card, the same text for the same card.

    Everything that the card says is escaped, and characters that do not print are replaced.  Bounds are rounded up.

    Args:
        card: as `release.build_release` makes it; docs/verifying.md describes the fields.

    Raises:
        KeyError, TypeError, ValueError, ConfigurationError: the card is malformed.
    """
    clients: Mapping[str, Any] = card["clients"]
    plan = None if card["plan"] is None else PrivacyPlan.from_json(card["plan"])
    method, data = card["method"], card["data"]
    return _PAGE.substitute(
        title=f"{_safe(method['name'])} on {_safe(data['name'])}",
        crowd="crowd" if len(clients) > _CROWD else "",
        verdict="private" if card["private"] else "not-private",
        headline="PRIVATE" if card["private"] else "NOT PRIVATE",
        claims=_unaccounted(card) + _claims(card, plan),
        facts=_list(_facts(card, plan)),
        curve="" if plan is None or not card["private"] else _curve_figure(plan, clients),
        bills=_bills(clients, plan),
        ledgers=_ledgers(clients),
        not_claimed="".join(f"<li>{_safe(line)}</li>" for line in (_NOT_CLAIMED if card["private"] else _NOTHING)),
        settings=_chips(method["settings"]),
        versions=_chips(card["versions"]),
        seeds=_safe(card["seeds"]),
        run=_safe(card["run_id"]),
        format=_safe(card["format"]),
    )


def _safe(value: object) -> str:
    """Text for HTML, on one line and without characters that could reorder what is read."""
    return html.escape("".join(c if c.isprintable() else "\ufffd" for c in str(value)))


def _epsilon(value: float | str) -> str:
    return rounded_up(math.inf if value == "infinity" else float(value))


def _count(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{math.ceil(value):,}" if value < 1e6 else f"{value:.1e}"


def _unaccounted(card: Mapping[str, Any]) -> str:
    """Clients whose messages were used, and whose ledger could not be had, or not be read, at the end."""
    names: Mapping[str, int] = card.get("unaccounted", {})
    return "".join(
        f"<p>No guarantee for <b>{_safe(name)}</b>: its ledger does not account for its {_safe(count)} messages.</p>"
        for name, count in sorted(names.items())
    )


def _claims(card: Mapping[str, Any], plan: PrivacyPlan | None) -> str:
    """The claim in one plain sentence for each group of clients that share it."""
    if plan is None:
        return _paragraph("Messages were exact statistics of the clients' data: this run was made without privacy.")
    sentences = []
    clients: Mapping[str, Any] = card["clients"]
    accounted = {n: bill["claim"]["epsilon"] for n, bill in clients.items() if n not in card.get("unaccounted", {})}
    for names, value in _groups(accounted, accounted):
        whose = f"<b>{names}</b>" if ", " not in names and "…" not in names else f"any one of <b>{names}</b>"
        if value == "infinity":
            sentences.append(f"<p>No guarantee for {whose}: its ledger holds releases without secure noise.</p>")
            continue
        factor = f" (about {_count(math.exp(value))})" if value < 700 else ""
        weak = " That is a weak guarantee." if value > _WEAK else ""
        sentences.append(
            f"<p>Adding or removing one labelled example of {whose} changes the probability of any outcome by at most "
            f"a factor e<sup>ε</sup> with <b class=bound>ε = {_epsilon(value)}</b>{factor}, up to "
            f"<b class=bound>δ = {plan.delta:g}</b>.{weak}</p>"
        )
    return "".join(sentences)


def _facts(card: Mapping[str, Any], plan: PrivacyPlan | None) -> Iterable[tuple[str, str]]:
    """What the claim is about: names as HTML, values as text."""
    data, progress = card["data"], card["progress"]
    channels, height, width = data["image_shape"]
    yield "unit", card["unit"]
    yield "relation", card["relation"]
    yield "noise model", card["noise_model"]
    if plan is not None:
        yield "noise multiplier <i>&sigma;</i>", f"{plan.noise_multiplier:.6g}"
        yield "sample rate <i>q</i>", f"{plan.sample_rate:g}"
        yield "clipping norm <i>C</i>", f"{plan.max_grad_norm:g}"
        yield "public divisor <i>b</i>", f"{plan.divisor:g}"
        yield "queries <i>T</i><sub>max</sub>", f"at most {plan.max_queries} a client"
        yield "<i>δ</i>", f"{plan.delta:g}"
    early = ", stopped early" if progress["stopped_early"] else ""
    yield "rounds done", f"{progress['rounds_done']} of {progress['rounds_planned']}{early}"
    yield "matching steps", f"{progress['matching_steps']}"
    yield "clients", f"{len(card['clients'])}"
    yield "method", card["method"]["name"]
    yield "data set", data["name"]
    yield "images", f"{height} by {width} pixels, {channels} channel{'s' if channels > 1 else ''}"
    yield "synthetic set", f"{data['num_classes']} classes, {card['ipc']} images each"


def _bills(clients: Mapping[str, Any], plan: PrivacyPlan | None) -> str:
    """A row for each group of clients with equal bills."""

    def cell(bill: Mapping[str, Any], part: str) -> str:
        return f"<td><span>{_epsilon(bill[part]['rdp'])}</span> <span>{_epsilon(bill[part]['prv'])}</span></td>"

    def budget(bill: Mapping[str, Any]) -> str:
        limit = bill["budget"]
        return "none" if limit is None else f"<span>{limit['epsilon']:g} at</span> <span>{limit['delta']:g}</span>"

    rows = {
        name: "".join(cell(bill, part) for part in ("claim", "spent", "so_far")) + f"<td>{budget(bill)}</td>"
        for name, bill in clients.items()
    }
    notes = sorted({bill[part]["note"] for bill in clients.values() for part in ("claim", "spent", "so_far")} - {""})
    body = "".join(
        f"<tr><th scope=row>{names}</th><td><span>RDP</span> <span>PRV</span></td>{row}</tr>"
        for names, row in _groups(clients, rows)
    )
    delta = "" if plan is None else f" at δ = {plan.delta:g}"
    return (
        "<table><thead><tr><th scope=col>client</th><th scope=col>by</th><th scope=col>claim</th>"
        "<th scope=col>spent</th><th scope=col>so far</th><th scope=col>budget</th></tr></thead>"
        f"<tbody>{body}</tbody></table>"
        f"<p class=small>Upper bounds on ε{delta}, rounded up, by two accountants; the smaller is the claim. "
        "<b>Claim</b>: the whole agreed schedule, however early the run stopped. <b>Spent</b>: what this run used. "
        "<b>So far</b>: all runs in this client's ledger. <b>Budget</b>: the data's lifetime (ε at δ).</p>"
        + "".join(f"<p class=small>Note: {_safe(note)}.</p>" for note in notes)
    )


def _ledgers(clients: Mapping[str, Any]) -> str:
    """Length and head hash of every client's ledger."""
    few = len(clients) <= _FULL_HEADS
    lines, used = (" lines,", " messages used, head") if few else (" /", "")
    items = "".join(
        f"<li><b>{_safe(name)}</b> {_safe(bill['ledger_lines'])}{lines} {_safe(bill['messages_used'])}{used} "
        f"<code>{_safe(bill['ledger_head'][: 64 if few else _SHORT_HEAD])}</code></li>"
        for name, bill in sorted(clients.items())
    )
    if few:
        return f'<ul class="ledgers full">{items}</ul>'
    return (
        f"<p class=small>Lines / messages used, and the first {_SHORT_HEAD} of the 64 digits of the head; card.json "
        f"has all.</p><ul class=ledgers>{items}</ul>"
    )


def _groups(order: Iterable[str], values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Clients with equal values, as HTML: runs of neighbours in the order of names become "first … last"."""
    position = {name: index for index, name in enumerate(sorted(order))}
    members: dict[Any, list[str]] = {}
    for name in position:
        members.setdefault(values[name], []).append(name)
    groups = []
    for value, names in members.items():
        runs: list[list[str]] = []
        for name in names:
            if runs and position[name] == position[runs[-1][-1]] + 1:
                runs[-1].append(name)
            else:
                runs.append([name])
        parts = [", ".join(map(_safe, run)) if len(run) < 3 else f"{_safe(run[0])} … {_safe(run[-1])}" for run in runs]
        groups.append((", ".join(parts), value))
    return groups


def _list(facts: Iterable[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<div><dt>{name}</dt><dd>{_safe(value)}</dd></div>" for name, value in facts) + "</dl>"


def _paragraph(text: str) -> str:
    return f"<p>{_safe(text)}</p>"


def _chips(record: Mapping[str, Any]) -> str:
    """Names and values in running text."""
    texts = {
        name: value if isinstance(value, str) else json.dumps(value, sort_keys=True) for name, value in record.items()
    }
    return "; ".join(f"<span><b>{_safe(name)}</b> {_safe(text)}</span>" for name, text in sorted(texts.items())) + "."


# The curve is drawn on 360 x 230 units: as wide as a phone, so that its letters stay readable there.
_WIDTH, _HEIGHT = 360, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 340, 14, 190
_POINTS = 61
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _curve_figure(plan: PrivacyPlan, clients: Mapping[str, Any]) -> str:
    """The epsilon-delta curve of the agreed schedule as inline SVG, with the claimed point."""
    claim = max(float(bill["claim"]["epsilon"]) for bill in clients.values())
    spacing = _nice(claim * 1.5 / 5 if claim > 0 else 0.2)
    most = spacing * math.ceil(max(claim * 1.4, spacing) / spacing)
    decades = math.ceil(-math.log10(plan.delta)) + 3

    def x(epsilon: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * epsilon / most

    def y(log_delta: float) -> float:
        return _TOP + (_BOTTOM - _TOP) * -log_delta / decades

    epsilons = [most * i / (_POINTS - 1) for i in range(_POINTS)]
    by_rdp = [delta_at([plan.schedule], epsilon, "rdp") for epsilon in epsilons]
    prv = PRV.for_budget(max(claim, 0.1))  # finer for small claims, which the usual error would hide
    by_prv = [delta_at([plan.schedule], epsilon, prv) for epsilon in epsilons]
    best = [min(pair) for pair in zip(by_rdp, by_prv, strict=True)]

    def path(deltas: Sequence[float]) -> str:
        points = zip(epsilons, deltas, strict=True)
        return "M" + "L".join(f"{x(e):.1f} {y(max(math.log10(max(d, 1e-300)), -2 * decades)):.1f}" for e, d in points)

    every = math.ceil(decades / 6)
    marks = "".join(
        f'<path class=grid d="M{_LEFT} {y(-d):.1f}H{_RIGHT}"/>'
        f'<text x="{_LEFT - 5}" y="{y(-d) + 4:.1f}" text-anchor=end>{"1" if d == 0 else "10" + _power(-d)}</text>'
        for d in range(0, decades + 1, every)
    ) + "".join(
        f'<path class=grid d="M{x(i * spacing):.1f} {_TOP}V{_BOTTOM}"/>'
        f'<text x="{x(i * spacing):.1f}" y="{_BOTTOM + 15}" text-anchor=middle>{i * spacing:g}</text>'
        for i in range(round(most / spacing) + 1)
    )
    px, py = x(claim), y(math.log10(plan.delta))
    label = f"ε = {_epsilon(claim)}, δ = {plan.delta:g}"
    return f"""<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role=img aria-label="epsilon-delta curve; {_safe(label)}">
<clipPath id=frame><rect x="{_LEFT}" y="{_TOP}" width="{_RIGHT - _LEFT}" height="{_BOTTOM - _TOP}"/></clipPath>
{marks}
<g clip-path="url(#frame)"><path class=rdp d="{path(by_rdp)}"/><path class=best d="{path(best)}"/></g>
<path class=drop d="M{_LEFT} {py:.1f}H{px:.1f}V{_BOTTOM}"/><circle cx="{px:.1f}" cy="{py:.1f}" r="4.5"/>
<text class=claim x="{_RIGHT - 4}" y="{_TOP + 16}" text-anchor=end>● claimed: {_safe(label)}</text>
<text x="{(_LEFT + _RIGHT) / 2:.1f}" y="{_HEIGHT - 6}" text-anchor=middle>ε</text>
<text x="6" y="{(_TOP + _BOTTOM) / 2:.1f}" text-anchor=middle>δ</text>
</svg><figcaption class=small>The whole trade: at each ε, the δ that all {plan.max_queries} queries keep together.
Solid: the smaller bound of RDP and PRV. Dashed: RDP.</figcaption></figure>"""


def _power(exponent: int) -> str:
    return str(exponent).translate(_SUPERSCRIPT)


def _nice(value: float) -> float:
    """The next number of the form 1, 2, 2.5 or 5 times a power of ten."""
    scale = float(f"1e{math.floor(math.log10(value))}")
    return next(step * scale for step in (1, 2, 2.5, 5, 10) if step * scale >= value * (1 - 1e-9))


_PAGE = Template("""<!DOCTYPE html>
<html lang=en>
<head>
<meta charset=utf-8>
<meta name=viewport content="width=device-width, initial-scale=1">
<title>Privacy card: $title</title>
<style>
*{box-sizing:border-box}
body{margin:0 auto;padding:16px;max-width:960px;color:#1b1f24;background:#fff;overflow-wrap:anywhere;
 font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans","DejaVu Sans",sans-serif}
header p{margin:0;color:#57606a}
h1{font-size:1.45em;line-height:1.2;margin:0}
h2{font-size:1.02em;margin:0 0 .4em;padding-bottom:.2em;border-bottom:1px solid #d0d7de}
p{margin:.35em 0}
section{margin-top:1.3em;min-width:0}
.verdict{margin-top:12px;padding:12px 16px;border-left:10px solid;border-radius:4px;
 print-color-adjust:exact;-webkit-print-color-adjust:exact}
.bound{white-space:nowrap}
.verdict strong{display:block;font-size:1.9em;line-height:1.15;letter-spacing:.03em}
.private{background:#e6f4ea;border-color:#137333}.private strong{color:#0d5c28}
.not-private{background:#b3001b;border-color:#5c000e;color:#fff}
.small{font-size:.82em;color:#57606a}
dl{margin:0}dl div{display:flex;gap:1em;justify-content:space-between;padding:.14em 0;border-bottom:1px solid #eef1f4}
dt{flex:none;color:#57606a}dd{margin:0;text-align:right;font-weight:600;min-width:0}
ul{margin:.3em 0;padding-left:1.2em}
code{font-family:ui-monospace,"DejaVu Sans Mono","Liberation Mono",monospace;font-size:.86em}
figure{margin:.6em 0 0}
svg{display:block;width:100%;max-width:520px;height:auto;margin:auto;font-size:12px;fill:#1b1f24}
svg path{fill:none}.grid{stroke:#e3e7eb}.best{stroke:#0550ae;stroke-width:2.2}
.rdp{stroke:#8250df;stroke-width:1.4;stroke-dasharray:5 4}.drop{stroke:#b3001b;stroke-dasharray:2 3}
circle,.claim{fill:#b3001b}.claim{font-weight:600;paint-order:stroke;stroke:#fff;stroke-width:4px}
table{width:100%;border-collapse:collapse;font-size:.88em;font-variant-numeric:tabular-nums}
th,td{padding:.25em .3em;text-align:right;vertical-align:top;border-bottom:1px solid #e3e7eb}
th:first-child{text-align:left}thead th{color:#57606a;font-weight:600;overflow-wrap:normal}
td:last-child{overflow-wrap:normal}
td span{display:block;white-space:nowrap}
.ledgers{list-style:none;padding:0;font-size:.82em}.ledgers li{padding:.1em 0;break-inside:avoid}
.ledgers code{color:#57606a}
@media (max-width:639px){
 tr{display:grid;grid-template-columns:2.8em repeat(4,1fr);border-bottom:1px solid #e3e7eb}
 th,td{border:0;padding:.15em .2em}thead th:first-child{display:none}tbody th{grid-column:1/-1}
}
@media (min-width:640px){
 body{padding:28px}
 .two{display:grid;grid-template-columns:1fr 1fr;column-gap:32px}
 .ledgers:not(.full){columns:2;column-gap:28px}
}
@page{size:A4;margin:10mm}
@media print{
 body{padding:0;max-width:none;font-size:8.6pt;line-height:1.32}
 section{margin-top:.75em}
 .verdict{margin-top:6px;padding:6px 12px}.verdict strong{font-size:1.6em}
 .two{display:grid;grid-template-columns:1fr 1fr;column-gap:20px}
 .ledgers:not(.full){columns:4;column-gap:14px}
 svg{max-width:330px}
 .crowd{font-size:6.7pt;line-height:1.22}.crowd section{margin-top:.5em}.crowd svg{max-width:240px}
 .crowd th,.crowd td{padding:.02em .3em}.crowd td{white-space:nowrap}.crowd dl div{padding:0}.crowd p{margin:.15em 0}
 .crowd td span{display:inline-block;min-width:3.4em}
}
</style>
</head>
<body class="$crowd">
<header><p>Privacy card of a synthetic data set</p><h1>$title</h1></header>
<div class="verdict $verdict"><strong>$headline</strong>$claims</div>
<div class=two>
<section><h2>What was agreed and done</h2>$facts</section>
<section><h2>What is not claimed</h2><ul>$not_claimed</ul>$curve</section>
</div>
<section><h2>The bill of each client</h2>$bills</section>
<section><h2>The ledgers it follows from</h2>$ledgers</section>
<div class=two>
<section><h2>How it was made</h2><p class=small>$settings</p></section>
<section><h2>Check it yourself</h2>
<p><code>private-distdd verify FOLDER</code></p>
<p class=small>It recomputes every number here from the ledgers in the folder and compares all files with the
manifest.</p>
<p class=small><b>Seeds:</b> $seeds.</p>
<p class=small><b>Versions:</b> $versions</p>
<p class=small><b>Run</b> $run; <b>format</b> $format.</p></section>
</div>
</body>
</html>
""")
