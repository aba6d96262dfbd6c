"""The bill of each client: claim, spending and total so far, computed from its ledger."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from private_distdd.data.info import DatasetInfo
from private_distdd.privacy.accountants import bracket
from private_distdd.privacy.events import Event, NotPrivate, merge
from private_distdd.privacy.ledger import Charge, History, Pin, Sealed
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.wire.packing import PLAIN
from private_distdd.wire.run import Run

_DELTA_WITHOUT_PRIVACY = 1e-5  # epsilon is infinite there at every delta


def bill_of(history: History, run: Run) -> dict[str, Any]:
    """One client's lines of the card: the claim and the spending of this run, and the ledger's total so far."""
    spent, delta = _spent(history, run.run_id), delta_of(run)
    return {
        "charges": len(spent),
        "claim": claim_of(history, run),
        "spent": epsilons(spent, delta),
        "so_far": epsilons(history.events, delta),
        "budget": None
        if history.opening.budget is None
        else {"epsilon": history.opening.budget.epsilon, "delta": history.opening.budget.delta},
        "ledger_lines": len(history),
        "ledger_head": history.head,
    }


def claim_of(history: History, run: Run) -> dict[str, Any]:
    """What the run may cost by this ledger: the plan's schedule only where the ledger pinned exactly that."""
    plan = run.plan
    claim: list[Event] = [NotPrivate()] if plan is not None or _spent(history, run.run_id) else []
    if plan is not None and pin_of(history, run.run_id) == Pin(
        run.run_id, plan.event, plan.max_queries, run.terms_digest
    ):
        claim = [plan.schedule]
    return epsilons(claim, delta_of(run))


def _spent(history: History, run_id: str) -> list[Event]:
    """What the run has cost so far; recoveries count as charges."""
    pin = pin_of(history, run_id)
    if pin is None:
        return [e.event for e in history if isinstance(e, Charge) and e.message_id.startswith(f"{run_id}:")]
    return [pin.event] * (pin.max_queries - history.remaining(run_id))


def delta_of(run: Run) -> float:
    """Where the epsilons of this run are stated."""
    return _DELTA_WITHOUT_PRIVACY if run.plan is None else run.plan.delta


def run_of(card: Mapping[str, Any]) -> Run:
    """What the clients were asked to agree to, as the card tells it."""
    plan = None if card["plan"] is None else PrivacyPlan.from_json(card["plan"])
    packed = card["method"]["settings"].get("message_format", PLAIN)  # cards of before there were others name none
    return Run(card["run_id"], DatasetInfo.from_json(card["data"]), plan, packed)


def pin_of(history: History, run_id: str) -> Pin | None:
    """What the ledger agreed to in this run; None where it never enrolled."""
    return next((entry for entry in history if isinstance(entry, Pin) and entry.run_id == run_id), None)


def rounds_of(history: History, run_id: str, kind: type[Charge] | type[Sealed]) -> set[int]:
    """The rounds of the run in which the ledger has such a line."""
    entries = (entry for entry in history if isinstance(entry, kind))
    parts = (entry.message_id.split(":") for entry in entries)
    return {int(server_round) for run, server_round in parts if run == run_id}


def epsilons(events: Iterable[Event], delta: float) -> dict[str, Any]:
    """Upper bounds by both accountants, the smaller of them, and what the numerics had to say."""
    merged = merge(events)
    rdp, prv = bracket(merged, delta, "rdp"), bracket(merged, delta, "prv")
    return {
        "rdp": as_text(rdp.upper),
        "prv": as_text(prv.upper),
        "prv_lower": as_text(prv.lower),
        "epsilon": as_text(min(rdp.upper, prv.upper)),
        "note": prv.note,
    }


def as_text(value: float) -> float | str:
    """An epsilon as the card states it: JSON has no infinity."""
    return value if math.isfinite(value) else "infinity"


def as_number(value: float | str) -> float:
    """The inverse of `as_text`.

    Raises:
        ValueError: it is another text.
    """
    return math.inf if value == "infinity" else float(value)
