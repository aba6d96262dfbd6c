"""The card's page: says what the card says, rounded up, escaped, and with nothing fetched from anywhere."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from private_distdd.privacy.accountants import PRV, epsilon
from private_distdd.privacy.accountants import delta as delta_at
from private_distdd.privacy.events import RELATION, UNIT, SampledGaussian
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.release import card as card_module
from private_distdd.release import curve as curve_module
from private_distdd.release.card import render_card
from private_distdd.release.html import shown_epsilon
from private_distdd.wire.attestation import fingerprint_of

PLAN = PrivacyPlan(1.5, 0.2, 0.5, 8.0, 30, 1e-5)
HEAD = "0123456789abcdef" * 4
INFINITE = dict.fromkeys(("rdp", "prv", "prv_lower", "epsilon"), "infinity") | {"note": "no guarantee"}


def costs(queries: int) -> dict[str, Any]:
    events = [SampledGaussian(PLAN.noise_multiplier, PLAN.sample_rate, queries)]
    rdp, prv = (epsilon(events, PLAN.delta, name) for name in ("rdp", "prv"))
    return {"rdp": rdp, "prv": prv, "prv_lower": 0.0, "epsilon": min(rdp, prv), "note": ""}


def make_card(clients: int = 1, private: bool = True, **changes: Any) -> dict[str, Any]:
    bill = {
        "charges": 30,
        "messages_used": 30,
        "claim": costs(30) if private else INFINITE,
        "spent": costs(30) if private else INFINITE,
        "so_far": costs(30) if private else INFINITE,
        "budget": None,
        "ledger_lines": 62,
        "ledger_head": HEAD,
    }
    card = {
        "format": "private_distdd.release/1",
        "private": private,
        "unit": UNIT,
        "relation": RELATION,
        "noise_model": "local" if private else "none",
        "run_id": "run-1",
        "method": {"name": "DistDD", "settings": {"model_args": {"width": 16}, "seed": 7}},
        "data": {"name": "digits", "num_classes": 10, "image_shape": [1, 8, 8], "mean": [0.5], "std": [0.5]},
        "ipc": 10,
        "plan": PLAN.to_json() if private else None,
        "progress": {"rounds_planned": 30, "rounds_done": 30, "matching_steps": 750, "stopped_early": False},
        "seeds": "public seed 7",
        "clients": {f"client-{i:02d}": dict(bill) for i in range(clients)},
        "versions": {"python": "3.11.7", "private-distdd": "0.1.0"},
    }
    return card | changes


class Page(HTMLParser):
    """Tags, attributes and text of a page; raises where tags do not nest."""

    VOID = frozenset({"meta", "br", "rect", "path", "circle"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self._open: list[str] = []
        self._text: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []
        self.text = " ".join("".join(self._text).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in self.VOID

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self._text.append(data)


def test_the_page_says_everything() -> None:
    card = make_card(2)
    assert "received" not in Page(render_card(card)).text  # a card of before bytes were counted
    card["traffic"] = {f"client-0{i}": {"sent": 12_345_678 + i, "received": 2_000 - i} for i in range(2)}
    card["clients"]["client-01"]["budget"] = {"epsilon": 12.5, "delta": 1e-6}
    page = Page(render_card(card))
    claim = card["clients"]["client-00"]["claim"]["epsilon"]
    shown = math.ceil(claim * 1000) / 1000
    for expected in (
        "LIMITED PRIVACY",
        f"at most {math.ceil(10 * math.exp(claim)) / 10} times as likely with an example as without it",
        "with an advantage of at most",
        "An attacker who accuses 1 % of the absent examples finds at most",
        "Adding or removing one labelled example of any one of client-00, client-01 changes the probability of any "
        f"outcome by at most a factor eε with ε = {shown:.3f}",
        "up to δ = 1e-05",
        UNIT,
        RELATION,
        "local",
        "1.5",
        "0.2",
        "0.5",
        "at most 30 a client",
        "30 of 30",
        "750",
        "digits",
        "8 by 8 pixels, 1 channel",
        "10 classes, 10 images each",
        "12.4 MB sent, 2.00 kB received",
        "12.5 at 1e-06",
        "Not client level",
        "Not replace-one",
        "No amplification by drawing clients",
        "Nothing about timing",
        "that noise and coins were really drawn",
        HEAD,
        "62 lines, 30 messages used",
        "private-distdd verify FOLDER",
        "public seed 7",
        "python 3.11.7",
        'model_args {"width": 16}',
        "run-1",
    ):
        assert expected in page.text, expected
    assert "NOT PRIVATE" not in page.text


KEYS = {"lasts": "ab" * 32, "thrown away": "cd" * 32}


def signed(how: str) -> dict[str, Any]:
    return {"signed": {"public_key": KEYS[how], "attestation": {"throwaway": how == "thrown away"}}}


def test_who_signed_is_said_of_each_client() -> None:
    card = make_card(3)
    card["clients"]["client-00"] |= signed("lasts")
    card["clients"]["client-01"] |= signed("thrown away")
    text = Page(render_card(card)).text
    for how, name in (("lasts", "client-00"), ("thrown away", "client-01")):
        assert f"{HEAD} key {fingerprint_of(KEYS[how])}" in text, name
    for expected in (
        "Signed with a key that lasts; whose it is, verify --owners tells: client-00.",
        "Signed with a throw-away key, made by the client's process and nobody's identity: client-01.",
        "Not signed: client-02.",
    ):
        assert expected in text


def test_of_many_clients_only_keys_that_last_are_shown_and_shortened() -> None:
    card = make_card(12)
    for name, bill in card["clients"].items():
        card["clients"][name] = bill | signed("lasts" if name == "client-00" else "thrown away")
    text = Page(render_card(card)).text
    assert text.count(f" key {fingerprint_of(KEYS['lasts'])[:16]}") == 1
    assert fingerprint_of(KEYS["lasts"])[:17] not in text
    assert fingerprint_of(KEYS["thrown away"])[:16] not in text
    assert "nobody's identity: client-01 … client-11." in text


@pytest.mark.parametrize(
    ("sigma", "delta", "grade", "headline"),
    [
        (5.0, 1e-5, "strong", "STRONG PRIVACY"),
        (2.0, 1e-5, "reasonable", "REASONABLE PRIVACY"),
        (0.9, 1e-5, "limited", "LIMITED PRIVACY"),
        (0.01, 1e-5, "hardly-any", "HARDLY ANY PRIVACY"),
        (5.0, 0.5, "hardly-any", "HARDLY ANY PRIVACY"),
    ],
)
def test_the_verdict_is_graded(sigma: float, delta: float, grade: str, headline: str) -> None:
    """A green PRIVATE at epsilon 5,000, or at a delta of one half, says nothing."""
    plan = PrivacyPlan(sigma, 1.0, 1.0, 1.0, 1, delta)
    card = make_card(plan=plan.to_json())
    card["clients"]["client-00"]["claim"] = costs(1) | {"epsilon": plan.epsilon}
    page = render_card(card)
    assert f'<div class="verdict {grade}"><strong>{headline}</strong>' in page
    assert f".{grade}" in page.partition("</style>")[0]
    assert ("with a probability of 50 % an example may be laid open" in page) is (delta > 1e-3)


def test_nothing_is_fetched_or_run() -> None:
    page = render_card(make_card(3))
    parsed = Page(page)
    assert parsed.links == []
    assert not {"script", "link", "img", "iframe", "object", "base", "form"} & set(parsed.tags)
    assert not re.search(r"url\((?!#)|@import|https?:|//", page)


def test_the_page_is_a_function_of_the_card() -> None:
    card = make_card(12)
    assert render_card(card) == render_card(card)
    shuffled = card | {"clients": dict(reversed(card["clients"].items()))}
    assert render_card(shuffled) == render_card(card)


def test_without_privacy_it_is_loud_and_draws_no_curve() -> None:
    page = Page(render_card(make_card(2, private=False)))
    assert "NOT PRIVATE" in page.text
    assert "without privacy" in page.text
    assert "Nothing is claimed" in page.text
    assert "svg" not in page.tags
    assert "∞" in page.text


def test_an_insecure_run_is_loud_and_draws_no_curve() -> None:
    card = make_card(2)
    card["clients"]["client-01"]["claim"] = INFINITE
    page = Page(render_card(card | {"private": False}))
    assert "NOT PRIVATE" in page.text
    assert "No guarantee for client-01" in page.text
    assert "svg" not in page.tags


HOSTILE = '<script>alert("x")</script>&amp;\'">\x00\x1b\u202e\ud800\n$verdict ${claims}'


def hostile(value: Any) -> Any:
    match value:
        case str() if value not in ("infinity", HEAD):
            return HOSTILE
        case dict():
            return {name: hostile(part) for name, part in value.items()}
    return value


def test_hostile_text_is_escaped() -> None:
    card = hostile(make_card(1))
    card["method"]["settings"][HOSTILE] = {HOSTILE: [HOSTILE]}
    card["versions"][HOSTILE] = HOSTILE
    card["clients"] = {HOSTILE: card["clients"]["client-00"], HOSTILE + "2": make_card()["clients"]["client-00"]}
    page = render_card(card)
    page.encode()
    parsed = Page(page)
    assert "script" not in parsed.tags
    assert '<script>alert("x")</script>&amp;' in parsed.text
    assert "$verdict" in parsed.text
    assert not re.search("[\x00\x1b\u202e\ud800]", page)


@given(name=st.text(min_size=1))
def test_any_name_is_text(name: str) -> None:
    card = make_card(private=False)
    card["data"]["name"] = name
    tags = Page(render_card(make_card(private=False))).tags
    assert Page(render_card(card)).tags == tags


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("infinity", "∞"),
        (0.0, "0"),
        (7.999999998, "8.000"),
        (8.0, "8.000"),
        (8.0000001, "8.001"),
        (0.12341, "0.1235"),
        (9.9995, "10.000"),
        (54.37661, "54.38"),
        (2_700_001.0, "2.701e+6"),
        (1e-7, "1.000e-7"),
    ],
)
def test_bounds_are_rounded_up(value: float | str, shown: str) -> None:
    assert shown_epsilon(value) == shown


@given(value=st.floats(min_value=1e-12, max_value=1e12))
def test_a_shown_bound_is_never_below_the_true_one(value: float) -> None:
    shown = float(shown_epsilon(value))
    assert value <= shown <= value * 1.0011


def test_equal_bills_are_grouped() -> None:
    names = [f"client-{i:02d}" for i in range(100)]
    assert card_module._groups(names, dict.fromkeys(names, 1)) == [("client-00 … client-99", 1)]
    values = {name: index % 50 == 3 for index, name in enumerate(names)}
    assert card_module._groups(names, values) == [
        ("client-00 … client-02, client-04 … client-52, client-54 … client-99", False),
        ("client-03, client-53", True),
    ]


def test_a_hundred_clients_are_all_there_and_stay_compact() -> None:
    card = make_card(100)
    page = Page(render_card(card))
    assert page.tags.count("tr") == 2
    assert all(name in page.text for name in card["clients"])
    assert HEAD not in page.text
    assert page.text.count(HEAD[:16]) == 100
    for index, bill in enumerate(card["clients"].values()):
        bill["spent"] = costs(1 + index % 30)
    assert Page(render_card(card)).tags.count("tr") == 31


def points_of(page: str, name: str) -> list[tuple[float, float]]:
    (path,) = re.findall(rf'<path class="?{name}"? d="M([^"]*)"', page)
    return [(float(x), float(y)) for x, y in (point.split() for point in path.split("L"))]


@pytest.mark.parametrize(
    "plan",
    [
        PLAN,
        PrivacyPlan(2.684, 1.0, 1.0, 1.0, 20, 1e-5),
        PrivacyPlan(1000.0, 0.001, 1.0, 1.0, 1, 0.1),  # epsilon next to nothing
        PrivacyPlan(0.05, 1.0, 1.0, 1.0, 500, 1e-9),  # epsilon of a hundred thousand
        PrivacyPlan(0.8, 0.01, 1.0, 1.0, 100, 1e-30),  # delta where PRV cannot serve
    ],
)
def test_the_curve_is_the_accountants_and_passes_the_claim(plan: PrivacyPlan) -> None:
    card = make_card(plan=plan.to_json())
    claim = min(epsilon([plan.schedule], plan.delta, name) for name in ("rdp", PRV(0.001)))
    card["clients"]["client-00"]["claim"]["epsilon"] = claim
    page = render_card(card)
    Page(page)
    points = points_of(page, "best")
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert [y for _, y in points] == sorted(y for _, y in points)
    ((cx, cy),) = [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([^"]*)" cy="([^"]*)"', page)]
    assert curve_module._LEFT <= cx <= curve_module._RIGHT
    assert curve_module._TOP < cy < curve_module._BOTTOM
    before = max((p for p in points if p[0] <= cx), key=lambda p: p[0])
    after = min((p for p in points if p[0] >= cx), key=lambda p: p[0])
    assert cy <= after[1] + 3  # the claim lies on the curve, to 3 of 230 units
    assert before[1] - 3 <= cy or claim < 0.05  # or above, where it is all numerical error
    decades = math.ceil(-math.log10(plan.delta)) + 3
    log_delta = (curve_module._TOP - points[0][1]) / (curve_module._BOTTOM - curve_module._TOP) * decades
    best = min(delta_at([plan.schedule], 0.0, name) for name in ("rdp", PRV(0.01)))
    assert math.isclose(log_delta, math.log10(best), abs_tol=0.1 * decades / 100 + 0.05)
    assert f"δ = {plan.delta:g}" in page


def test_axis_steps_are_round() -> None:
    for value in (1e-9, 0.013, 0.2, 2.4, 3.0, 9.9, 70_000.0):
        step = curve_module._nice(value)
        assert value <= step <= 2.5 * value
        assert f"{step:e}"[0] in "125"


def test_a_malformed_card_raises() -> None:
    for name in make_card().keys() - {"ipc"}:  # without it the card is of a network
        card: Mapping[str, Any] = {key: value for key, value in make_card().items() if key != name}
        with pytest.raises(KeyError):
            render_card(card)
