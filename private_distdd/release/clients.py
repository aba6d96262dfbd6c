"""One client's bill on the card, against its ledger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from private_distdd.privacy.accountants import best_epsilon
from private_distdd.privacy.events import NotPrivate
from private_distdd.privacy.ledger import Charge, History, Recovered, Sealed
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.release.bill import bill_of, pin_of, rounds_of, run_of
from private_distdd.release.compare import close_to, flat, is_weaker
from private_distdd.release.form import version
from private_distdd.release.progress import begun
from private_distdd.release.signatures import signature_failures


def client_failures(card: Mapping[str, Any], plan: PrivacyPlan | None, name: str, history: History) -> Iterator[str]:
    """One client's bill against its ledger, and against what was signed."""
    run_id, opening, pin = card["run_id"], history.opening, pin_of(history, card["run_id"])
    if opening.client_id not in (None, name):
        yield f"the ledger is that of client {opening.client_id}"
    if plan is None and pin is not None:
        yield "its ledger agreed to privacy in this run, the card has no plan"
    if plan is not None and pin is None:
        yield f"its ledger never agreed to run {run_id!r}"
    if plan is not None and pin is not None:
        if pin.event not in (plan.event, NotPrivate()):
            yield f"its ledger agreed to {pin.event} a query, the plan says {plan.event}"
        if pin.max_queries != plan.max_queries:
            yield f"its ledger agreed to {pin.max_queries} queries, the plan says {plan.max_queries}"
        if pin.terms != run_of(card).terms_digest:
            yield "its ledger agreed to other terms than the card's data, clipping norm, divisor or delta"
    bill = bill_of(history, run_of(card))
    stated = flat({field: value for field, value in card["clients"][name].items() if field != "signed"})
    used = stated.pop("messages_used")
    computed = flat(bill)
    own = card["versions"]["private-distdd"] == version("private-distdd")
    for line in sorted(stated.keys() | computed.keys()):
        if not own and is_weaker(line, stated.get(line), computed.get(line)):
            continue
        if not close_to(stated.get(line), computed.get(line)):
            yield f"{line} is {stated.get(line)!r} on the card, {computed.get(line)!r} by its ledger"
    sealed = rounds_of(history, run_id, Sealed)
    if not 0 <= used <= len(sealed) and name not in card.get("unaccounted", {}):
        yield f"{used} messages used, but {len(sealed)} are sealed in its ledger"
    last = max(rounds_of(history, run_id, Charge), default=-1)
    if plan is not None and last >= begun(card):
        yield f"its ledger is charged for round {last + 1}, the card has {card['progress']['rounds_done']} rounds done"
    if "signed" in card["clients"][name]:
        yield from signature_failures(card, name, card["clients"][name]["signed"])
    budget = opening.budget
    # A recovery outside every pin may pass the budget on paper (see `Ledger`).
    if budget is not None and not any(isinstance(entry, Recovered) for entry in history):
        spent = best_epsilon(history.events, budget.delta)
        if not spent <= budget.epsilon * (1 + 1e-6):
            yield f"its ledger has spent {spent!r} of its {budget}"
