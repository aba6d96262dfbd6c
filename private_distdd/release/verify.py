"""What does not fit together in a release: card, ledgers and S against each other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

from private_distdd.encoding import to_json
from private_distdd.errors import PrivateDistDDError
from private_distdd.privacy.accountants import best_epsilon
from private_distdd.privacy.events import RELATION, UNIT, NotPrivate
from private_distdd.privacy.ledger import Charge, History, Recovered, Sealed, parse
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.release.bill import as_number, bill_of, pin_of, rounds_of, run_of
from private_distdd.release.contents import Contents
from private_distdd.release.folder import FORMAT, folder_failures, line_of
from private_distdd.release.form import form_failures
from private_distdd.synthetic.dataset import LARGEST_PIXEL

# Settings under which clients' data would leave them beside the mechanism, with what they are under a plan.
_CLOSED = {"initialization": "noise", "batch_per_class": None, "local_steps": 0}
_LONGEST_SETTINGS = 1 << 14  # characters of JSON


def failures_of(release: Contents) -> list[str]:
    """All that does not fit together, a line each; empty for a sound release."""
    found: list[str] = []
    for part, checks in (("card", _card_failures), ("folder", folder_failures)):
        try:
            found.extend(map(line_of, checks(release)))
        except Exception as error:  # the card is anybody's text: whatever it breaks is a finding, not a crash
            found.append(line_of(f"{part}: cannot be checked: {type(error).__name__}: {error}"))
    return found


def _card_failures(release: Contents) -> Iterator[str]:
    card = release.card
    if malformed := form_failures(card):
        yield from malformed
        return
    plan = None if card["plan"] is None else PrivacyPlan.from_json(card["plan"])
    yield from _statement_failures(release, plan)
    if set(card["clients"]) != set(release.ledgers):
        yield f"ledgers: {sorted(release.ledgers)} are there, the card names {sorted(card['clients'])}"
        return
    histories: dict[str, History] = {}
    for name, data in sorted(release.ledgers.items()):
        try:
            histories[name] = parse(data)
        except PrivateDistDDError as error:
            yield f"ledger {name}: {error}"
            continue
        yield from (f"client {name}: {line}" for line in client_failures(card, plan, name, histories[name]))
    yield from _progress_failures(card, plan, histories)


def _statement_failures(release: Contents, plan: PrivacyPlan | None) -> Iterator[str]:
    """What the card says, against S, the accountants, and itself."""
    card, dataset = release.card, release.dataset
    settings, clients = card["method"]["settings"], card["clients"]
    expected = {
        "format": FORMAT,
        "unit": UNIT,
        "relation": RELATION,
        "noise_model": "none" if plan is None else "local",
        "data": dataset.info.to_json(),
        "ipc": dataset.ipc,
    }
    for name, value in expected.items():
        if not close_to(card[name], value):
            yield f"card: {name} is {card[name]!r}, but it must be {value!r}"
    largest = float(dataset.images.abs().max())
    if not largest <= LARGEST_PIXEL:
        yield f"synthetic.safetensors: a pixel of magnitude {largest:.3g} is beyond {LARGEST_PIXEL:g}"
    if not clients:
        yield "card: it names no client"
    private = bool(clients) and all(math.isfinite(as_number(bill["claim"]["epsilon"])) for bill in clients.values())
    if card["private"] is not (private and plan is not None and not card.get("unaccounted")):
        yield f"card: private is {card['private']!r}, which does not follow from its plan and claims"
    if settings.get("partition", 1) != dataset.partition:
        yield f"card: partition is {settings.get('partition', 1)!r} in the settings, S has {dataset.partition}"
    if settings.get("ipc", card["ipc"]) != card["ipc"]:
        yield f"card: ipc is {settings['ipc']!r} in the settings, {card['ipc']!r} beside them"
    if len(to_json(settings)) > _LONGEST_SETTINGS:
        yield f"card: settings of more than {_LONGEST_SETTINGS} characters"
    asked = settings["privacy"]
    if plan is None or asked is None:
        if plan is not None or asked is not None:
            yield "card: plan and settings disagree on whether the run had privacy"
        return
    for name, closed in _CLOSED.items():
        if settings.get(name, closed) != closed:
            yield f"card: {name} is {settings[name]!r} in the settings, but with privacy it must be {closed!r}"
    for name in ("noise_multiplier", "sample_rate", "max_grad_norm", "divisor", "delta"):
        if asked[name] != getattr(plan, name) and not (name == "noise_multiplier" and asked[name] is None):
            yield f"card: {name} is {asked[name]!r} in the settings, {getattr(plan, name)!r} in the plan"
    if asked.get("relation", RELATION) != RELATION:
        yield f"card: relation is {asked['relation']!r} in the settings, but it must be {RELATION!r}"
    target = asked["target_epsilon"]
    if target is not None and not plan.epsilon <= target * (1 + 1e-6):
        yield f"card: the plan costs epsilon {plan.epsilon!r}, more than the target {target!r}"


def client_failures(card: Mapping[str, Any], plan: PrivacyPlan | None, name: str, history: History) -> Iterator[str]:
    """One client's bill against its ledger."""
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
        if pin.terms != run_of(card).terms:
            yield "its ledger agreed to other terms than the card's data, clipping norm, divisor or delta"
    bill = bill_of(history, run_of(card))
    stated = _flat(card["clients"][name])
    used = stated.pop("messages_used")
    computed = _flat(bill)
    own = card["versions"]["private-distdd"] == version("private-distdd")
    for line in sorted(stated.keys() | computed.keys()):
        if not own and _is_weaker(line, stated.get(line), computed.get(line)):
            continue
        if not close_to(stated.get(line), computed.get(line)):
            yield f"{line} is {stated.get(line)!r} on the card, {computed.get(line)!r} by its ledger"
    sealed = rounds_of(history, run_id, Sealed)
    if not 0 <= used <= len(sealed) and name not in card.get("unaccounted", {}):
        yield f"{used} messages used, but {len(sealed)} are sealed in its ledger"
    last = max(rounds_of(history, run_id, Charge), default=-1)
    if plan is not None and last >= _begun(card):
        yield f"its ledger is charged for round {last + 1}, the card has {card['progress']['rounds_done']} rounds done"
    budget = opening.budget
    # A recovery outside every pin may pass the budget on paper (see `Ledger`).
    if budget is not None and not any(isinstance(entry, Recovered) for entry in history):
        spent = best_epsilon(history.events, budget.delta)
        if not spent <= budget.epsilon * (1 + 1e-6):
            yield f"its ledger has spent {spent!r} of its {budget}"


def _begun(card: Mapping[str, Any]) -> int:
    """Rounds in which clients may have been asked: those done, and one that was interrupted."""
    return int(min(card["progress"]["rounds_done"] + 1, card["progress"]["rounds_planned"]))


def _progress_failures(
    card: Mapping[str, Any], plan: PrivacyPlan | None, histories: Mapping[str, History]
) -> Iterator[str]:
    """Rounds and matching steps against the ledgers: steps are taken in rounds in which somebody answered."""
    progress, settings, run_id = card["progress"], card["method"]["settings"], card["run_id"]
    done, planned, steps = progress["rounds_done"], progress["rounds_planned"], progress["matching_steps"]
    if not 0 <= done <= planned:
        yield f"card: {done} of {planned} rounds done"
    if done < planned and not progress["stopped_early"]:
        yield f"card: stopped_early is False with {done} of {planned} rounds done"
    if settings["rounds"] != planned:
        yield f"card: rounds is {settings['rounds']!r} in the settings, {planned} were planned"
    if plan is not None and plan.max_queries > planned:
        yield f"card: at most {plan.max_queries} queries a client in {planned} rounds"
    possible: set[int] = set()
    certain: set[int] = set()
    for name, history in histories.items():
        sealed = rounds_of(history, run_id, Sealed)
        possible |= {t for t in sealed if t < _begun(card)}
        if card["clients"][name]["messages_used"] == len(sealed):
            certain |= {t for t in sealed if t < done - progress["stopped_early"]}  # the last one may be unfinished
    answers = sum(bill["messages_used"] for bill in card["clients"].values())
    if lost := card.get("unaccounted"):
        # Their ledgers do not say in which rounds they answered; those also billed were counted above.
        answers += sum(count for name, count in lost.items() if name not in histories)
        possible |= set(range(_begun(card)))
    if "matching_steps" not in settings:  # another method: how many it takes is its own affair
        if steps < 0 or (steps and not min(len(possible), answers)):
            yield f"card: {steps} matching steps; by the ledgers, nobody answered"
        return
    least, most = (n * settings["matching_steps"] for n in (len(certain), min(len(possible), answers)))
    if not least <= steps <= most:
        yield f"card: {steps} matching steps; by the ledgers, {least} to {most} were taken"


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with the fields of its parts as "part.field"."""
    parts = {name: value for name, value in record.items() if isinstance(value, Mapping)}
    return {name: value for name, value in record.items() if name not in parts} | {
        f"{name}.{field}": value for name, part in parts.items() for field, value in part.items()
    }


def _is_weaker(line: str, stated: Any, computed: Any) -> bool:
    """Does a card of another version claim less than is computed here?  Accountants get tighter, and word notes anew.

    A stated bound above the computed one promises less, and holds.
    """
    if line.endswith((".note", ".prv_lower")):  # no claims
        return type(stated) is type(computed)
    bound = line.endswith((".rdp", ".prv", ".epsilon")) and not line.startswith("budget")
    return bound and isinstance(stated, float) and isinstance(computed, float) and stated >= computed


def close_to(stated: Any, computed: Any) -> bool:
    """Equal, but for the last digits that another version of a numerical library may give."""
    if isinstance(stated, float) and isinstance(computed, float):
        return math.isclose(stated, computed, rel_tol=1e-6, abs_tol=1e-9)
    return type(stated) is type(computed) and bool(stated == computed)
