"""The card's page: layout and style."""

from __future__ import annotations

from string import Template

from private_distdd.release.colours import COLOURS

PAGE = Template(
    """<!DOCTYPE html>
<html lang=en>
<head>
<meta charset=utf-8>
<meta name=viewport content="width=device-width, initial-scale=1">
<title>Privacy card: $title</title>
<style>
"""
    + COLOURS
    + """*{box-sizing:border-box}
body{margin:0 auto;padding:16px;max-width:960px;color:var(--ink);background:var(--ground);overflow-wrap:anywhere;
 font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans","DejaVu Sans",sans-serif}
header p{margin:0;color:var(--soft)}
h1{font-size:1.45em;line-height:1.2;margin:0}
h2{font-size:1.02em;margin:0 0 .4em;padding-bottom:.2em;border-bottom:1px solid var(--line)}
p{margin:.35em 0}
section{margin-top:1.3em;min-width:0}
.verdict{margin-top:12px;padding:12px 16px;border-left:10px solid;border-radius:4px;
 print-color-adjust:exact;-webkit-print-color-adjust:exact}
.bound{white-space:nowrap}
.verdict strong{display:block;font-size:1.9em;line-height:1.15;letter-spacing:.03em}
.strong,.reasonable{background:var(--good-ground);border-color:var(--good-edge)}
:is(.strong,.reasonable) strong{color:var(--good)}
.limited{background:var(--warn-ground);border-color:var(--warn-edge)}.limited strong{color:var(--warn)}
.hardly-any{background:var(--bad-ground);border-color:var(--bad-edge)}.hardly-any strong{color:var(--bad)}
.not{background:#b3001b;border-color:#5c000e;color:#fff}
.small{font-size:.82em;color:var(--soft)}
dl{margin:0}dl div{display:flex;gap:1em;justify-content:space-between;padding:.14em 0;
 border-bottom:1px solid var(--faint)}
dt{flex:none;color:var(--soft)}dd{margin:0;text-align:right;font-weight:600;min-width:0}
ul{margin:.3em 0;padding-left:1.2em}
code{font-family:ui-monospace,"DejaVu Sans Mono","Liberation Mono",monospace;font-size:.86em}
figure{margin:.6em 0 0}
svg{display:block;width:100%;max-width:520px;height:auto;margin:auto;font-size:12px;fill:var(--ink)}
svg path{fill:none}.grid{stroke:var(--faint)}.best{stroke:var(--blue);stroke-width:2.2}
.rdp{stroke:var(--violet);stroke-width:1.4;stroke-dasharray:5 4}.drop{stroke:var(--bad-edge);stroke-dasharray:2 3}
circle,.claim{fill:var(--bad-edge)}.claim{font-weight:600;paint-order:stroke;stroke:var(--ground);stroke-width:4px}
table{width:100%;border-collapse:collapse;font-size:.88em;font-variant-numeric:tabular-nums}
th,td{padding:.25em .3em;text-align:right;vertical-align:top;border-bottom:1px solid var(--faint)}
th:first-child{text-align:left}thead th{color:var(--soft);font-weight:600;overflow-wrap:normal}
td:last-child{overflow-wrap:normal}
td span{display:block;white-space:nowrap}
.ledgers{list-style:none;padding:0;font-size:.82em}.ledgers li{padding:.1em 0;break-inside:avoid}
.ledgers code{color:var(--soft)}
@media (max-width:639px){
 tr{display:grid;grid-template-columns:2.8em repeat(4,1fr);border-bottom:1px solid var(--faint)}
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
<header><p>Privacy card of a $what</p><h1>$title</h1></header>
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
"""
)
