"""A release as a notebook shows it: the picture of S, the verdict and the bill, out of the card's own parts."""

from __future__ import annotations

from string import Template
from typing import TYPE_CHECKING

from private_distdd.release.card import bill_table, claim_sentences, headline_of, plan_of
from private_distdd.release.html import paragraph, safe

if TYPE_CHECKING:
    from private_distdd.release.contents import Contents

# A page's own colours are not known: text and lines take them over, and what has a ground brings its text's colour.
_VIEW = Template("""<style>
.pdd{max-width:960px;line-height:1.45;overflow-wrap:anywhere}
.pdd p{margin:.35em 0}
.pdd .verdict{margin:.4em 0;padding:8px 14px;border-left:8px solid;border-radius:4px;color:#1b1f24}
.pdd .verdict strong{display:block;font-size:1.35em;line-height:1.2}
.pdd .verdict :is(p,b,sup){color:inherit}
.pdd :is(.strong,.reasonable){background:#e6f4ea;border-color:#137333}
.pdd .limited{background:#fff4d1;border-color:#d4a000}
.pdd .hardly-any{background:#ffe9e6;border-color:#b3001b}
.pdd .not{background:#b3001b;border-color:#5c000e;color:#fff}
.pdd .bound{white-space:nowrap}
.pdd .small{font-size:.85em;opacity:.8}
.pdd table{border-collapse:collapse;font-size:.9em;margin:.4em 0;background:none}
.pdd :is(th,td){padding:.2em .7em;text-align:right;vertical-align:top;border-bottom:1px solid #8886;
 background:none;color:inherit}
.pdd th:first-child{text-align:left}
.pdd td span{display:block;white-space:nowrap}
</style>
<div class=pdd>
<p>$what <b>$title</b>$held</p>
<div class="verdict $verdict"><strong>$headline</strong>$claims</div>
$picture
$bills
</div>""")


def render_release(release: Contents) -> str:
    """HTML of its own, without a script or anything from elsewhere; all that the card says is escaped.

    Raises:
        KeyError, TypeError, ValueError, ConfigurationError: the card is malformed.
    """
    card, plan, s = release.card, plan_of(release.card), release.synthetic
    verdict, headline = headline_of(card)
    title = f"{safe(card['method']['name'])} on {safe(card['data']['name'])}"
    return _VIEW.substitute(
        what="Synthetic data set by" if s is not None else "Network trained by",
        title=title,
        held="" if s is None else f": {safe(len(s.labels))} {s.info.form.many} ({safe(s.ipc)} a class)",
        verdict=verdict,
        headline=headline,
        claims=claim_sentences(card, plan),
        picture=s.picture_html() if s is not None else paragraph(f"It holds {release.teacher!r}."),
        bills=bill_table(card["clients"], plan),
    )
