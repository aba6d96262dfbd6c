"""The card as a page: self-contained HTML that opens without a network, on a phone, or on one sheet of paper."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from private_distdd.data.info import DatasetInfo
from private_distdd.privacy.grade import grade_of, in_words
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.release.bill import as_number
from private_distdd.release.curve import curve_figure
from private_distdd.release.html import chips, fact_list, paragraph, safe, shown_epsilon
from private_distdd.release.page import PAGE
from private_distdd.release.signatures import Signer, signers_of
from private_distdd.rounding import in_bytes

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
_NOTHING = ("Nothing is claimed: this release may reveal the examples that it was made from.",)


def render_card(card: Mapping[str, Any]) -> str:
    """The page of one card, the same text for the same card.

    Everything that the card says is escaped, and characters that do not print are replaced.  Bounds are rounded up.

    Args:
        card: as `release.build_release` makes it; docs/verifying.md describes the fields.

    Raises:
        KeyError, TypeError, ValueError, ConfigurationError: the card is malformed.
    """
    clients: Mapping[str, Any] = card["clients"]
    plan = plan_of(card)
    method, data = card["method"], card["data"]
    verdict, headline = headline_of(card)
    return PAGE.substitute(
        what="synthetic data set" if "ipc" in card else "trained network",
        title=f"{safe(method['name'])} on {safe(data['name'])}",
        crowd="crowd" if len(clients) > _CROWD else "",
        verdict=verdict,
        headline=headline,
        claims=claim_sentences(card, plan),
        facts=fact_list(_facts(card, plan)),
        curve="" if plan is None or not card["private"] else curve_figure(plan, clients),
        bills=bill_table(clients, plan),
        ledgers=_ledgers(card),
        not_claimed="".join(f"<li>{safe(line)}</li>" for line in (_NOT_CLAIMED if card["private"] else _NOTHING)),
        settings=chips(method["settings"]),
        versions=chips(card["versions"]),
        seeds=safe(card["seeds"]),
        run=safe(card["run_id"]),
        format=safe(card["format"]),
    )


def plan_of(card: Mapping[str, Any]) -> PrivacyPlan | None:
    """What every client agreed to; None without privacy."""
    return None if card["plan"] is None else PrivacyPlan.from_json(card["plan"])


def headline_of(card: Mapping[str, Any]) -> tuple[str, str]:
    """The verdict: its class in the page's style, and its words."""
    plan = plan_of(card)
    if plan is None or not card["private"]:
        return "not", "NOT PRIVATE"
    grade = grade_of(max(as_number(bill["claim"]["epsilon"]) for bill in card["clients"].values()), plan.delta)
    return grade.replace(" ", "-"), f"{grade.upper()} PRIVACY"


def claim_sentences(card: Mapping[str, Any], plan: PrivacyPlan | None) -> str:
    """What stands below the verdict, as HTML: for whom there is no guarantee, the claims, and the teacher's."""
    return _unaccounted(card) + _claims(card, plan) + _teacher(card)


def _unaccounted(card: Mapping[str, Any]) -> str:
    """Clients whose messages were used, and whose ledger could not be had, or not be read, at the end."""
    names: Mapping[str, int] = card.get("unaccounted", {})
    return "".join(
        f"<p>No guarantee for <b>{safe(name)}</b>: its ledger does not account for its {safe(count)} messages.</p>"
        for name, count in sorted(names.items())
    )


def _claims(card: Mapping[str, Any], plan: PrivacyPlan | None) -> str:
    """The claim in one plain sentence for each group of clients that share it."""
    if plan is None:
        return paragraph("Messages were exact statistics of the clients' data: this run was made without privacy.")
    sentences = []
    clients: Mapping[str, Any] = card["clients"]
    accounted = {n: bill["claim"]["epsilon"] for n, bill in clients.items() if n not in card.get("unaccounted", {})}
    for names, value in _groups(accounted, accounted):
        whose = f"<b>{names}</b>" if ", " not in names and "…" not in names else f"any one of <b>{names}</b>"
        if value == "infinity":
            sentences.append(f"<p>No guarantee for {whose}: its ledger holds releases without secure noise.</p>")
            continue
        sentences.append(
            f"<p>Adding or removing one labelled example of {whose} changes the probability of any outcome by at most "
            f"a factor e<sup>ε</sup> with <b class=bound>ε = {shown_epsilon(value)}</b>, up to "
            f"<b class=bound>δ = {plan.delta:g}</b>.</p>{paragraph(in_words(plan.schedule, value, plan.delta))}"
        )
    return "".join(sentences)


def _teacher(card: Mapping[str, Any]) -> str:
    """That the classifier beside S costs nothing more."""
    if "teacher" not in card or "ipc" not in card:
        return ""
    price = "with the same ε: " if card["private"] else ""
    return (
        f"<p>A classifier (teacher, <b>{safe(card['teacher']['name'])}</b>) comes with the set, {price}post-processing "
        "of the same messages.</p>"
    )


def _facts(card: Mapping[str, Any], plan: PrivacyPlan | None) -> Iterable[tuple[str, str]]:
    """What the claim is about: names as HTML, values as text."""
    data, progress = card["data"], card["progress"]
    form = DatasetInfo.from_json(data).form
    yield "unit", card["unit"]
    yield "relation", card["relation"]
    yield "noise model", card["noise_model"]
    if plan is not None:
        yield "noise multiplier <i>&sigma;</i>", f"{plan.noise_multiplier:.6g}"
        yield "sample rate <i>q</i>", f"{plan.sample_rate:g}"
        yield "clipping norm <i>C</i>", f"{plan.max_grad_norm:g}"
        yield "public divisor <i>b</i>", f"{plan.divisor:g}"
        yield "queries <i>T</i><sub>max</sub>", f"at most {plan.max_queries} a client"
        if plan.events_per_query > 1:
            yield "noisy releases", f"{plan.events_per_query} a query"
        yield "<i>δ</i>", f"{plan.delta:g}"
    early = ", stopped early" if progress["stopped_early"] else ""
    yield "rounds done", f"{progress['rounds_done']} of {progress['rounds_planned']}{early}"
    yield "matching steps", f"{progress['matching_steps']}"
    yield "clients", f"{len(card['clients'])}"
    if traffic := card.get("traffic", {}).values():
        sent, received = (in_bytes(max(counts[way] for counts in traffic)) for way in ("sent", "received"))
        yield "bytes a client, at most", f"{sent} sent, {received} received"
    yield "method", card["method"]["name"]
    if isinstance(generator := card["method"]["settings"].get("parametrisation"), Mapping):
        layer = f", changed at its layer {generator['layer']}" if "layer" in generator else ""
        yield "generator of S", f"{generator['name']}{layer}; its weights have seen: {generator['seen']}"
        yield "its weights (SHA-256)", f"{generator['weights']}" + (", then learned" if generator["learned"] else "")
    yield "data set", data["name"]
    yield form.many, form.words
    if "ipc" in card:
        yield "synthetic set", f"{data['num_classes']} classes, {card['ipc']} {form.many} each"
    if data.get("classes"):
        yield "classes", ", ".join(data["classes"])
    if card.get("soft_labels"):
        yield "labels", "hard, and soft: a distribution over the classes for each example"
    if "teacher" in card:
        yield "classifier (teacher)" if "ipc" in card else "network", card["teacher"]["name"]


def bill_table(clients: Mapping[str, Any], plan: PrivacyPlan | None) -> str:
    """The bill as HTML: a row for each group of clients with equal ones."""

    def cell(bill: Mapping[str, Any], part: str) -> str:
        return (
            f"<td><span>{shown_epsilon(bill[part]['rdp'])}</span> <span>{shown_epsilon(bill[part]['prv'])}</span></td>"
        )

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
        + "".join(f"<p class=small>Note: {safe(note)}.</p>" for note in notes)
    )


def _ledgers(card: Mapping[str, Any]) -> str:
    """Length and head hash of every client's ledger, and who signed it."""
    clients, signers = card["clients"], signers_of(card, {})
    few = len(clients) <= _FULL_HEADS
    lines, used = (" lines,", " messages used, head") if few else (" /", "")
    digits = 64 if few else _SHORT_HEAD
    items = "".join(
        f"<li><b>{safe(name)}</b> {safe(bill['ledger_lines'])}{lines} {safe(bill['messages_used'])}{used} "
        f"<code>{safe(bill['ledger_head'][:digits])}</code>{_key(signers[name], digits)}</li>"
        for name, bill in sorted(clients.items())
    )
    shown = f'<ul class="ledgers full">{items}</ul>'
    if not few:
        shown = (
            f"<p class=small>Lines / messages used, and the first {_SHORT_HEAD} of the 64 digits of the head, and of a "
            f"key that lasts; card.json has all.</p><ul class=ledgers>{items}</ul>"
        )
    return shown + _signers({name: signers[name] for name in clients})


def _key(signer: Signer, digits: int) -> str:
    """The fingerprint that a client may be known by; one that was thrown away only where there is room."""
    if signer.fingerprint is None or (signer.throwaway and digits < len(signer.fingerprint)):
        return ""
    return f" key <code>{safe(signer.fingerprint[:digits])}</code>"


def _signers(signers: Mapping[str, Signer]) -> str:
    """What the signatures say, and what they do not."""
    groups = _groups(signers, {n: (s.fingerprint is not None, s.throwaway) for n, s in signers.items()})
    texts = {
        (True, False): "Signed with a key that lasts; whose it is, <code>verify --owners</code> tells",
        (True, True): "Signed with a throw-away key, made by the client's process and nobody's identity",
        (False, False): "Not signed",
    }
    return "".join(f"<p class=small>{texts[how]}: <b>{names}</b>.</p>" for names, how in groups)


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
        parts = [", ".join(map(safe, run)) if len(run) < 3 else f"{safe(run[0])} … {safe(run[-1])}" for run in runs]
        groups.append((", ".join(parts), value))
    return groups
