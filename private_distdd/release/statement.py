"""What a card says in words and settings, against S, the accountants, and itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from private_distdd.encoding import to_json
from private_distdd.networks.trained import TrainedNetwork
from private_distdd.privacy.events import RELATION, UNIT
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.release.bill import as_number
from private_distdd.release.compare import close_to
from private_distdd.release.contents import Contents
from private_distdd.release.folder import FORMAT, TEACHER
from private_distdd.synthetic.dataset import LARGEST_PIXEL, SyntheticDataset

# Settings under which clients' data would leave them beside the mechanism, with what they are under a plan.
_CLOSED = {"initialization": "noise", "batch_per_class": None, "batch_size": None}
_CLOSED_WITH_S = {"local_steps": 0}  # those that train a network pass the mechanism one by one
_LONGEST_SETTINGS = 1 << 14  # characters of JSON


def statement_failures(release: Contents, plan: PrivacyPlan | None) -> Iterator[str]:
    """What the card says, against S, the accountants, and itself."""
    card = release.card
    settings, clients = card["method"]["settings"], card["clients"]
    expected = {
        "format": FORMAT,
        "unit": UNIT,
        "relation": RELATION,
        "noise_model": "none" if plan is None else "local",
    }
    for name, value in expected.items():
        if not close_to(card[name], value):
            yield f"card: {name} is {card[name]!r}, but it must be {value!r}"
    if not clients:
        yield "card: it names no client"
    private = bool(clients) and all(math.isfinite(as_number(bill["claim"]["epsilon"])) for bill in clients.values())
    if card["private"] is not (private and plan is not None and not card.get("unaccounted")):
        yield f"card: private is {card['private']!r}, which does not follow from its plan and claims"
    if release.synthetic is None and release.teacher is None:
        yield "it holds neither S nor a network"
    yield from _synthetic_failures(card, release.synthetic)
    yield from _teacher_failures(card, release.teacher)
    if len(to_json(settings)) > _LONGEST_SETTINGS:
        yield f"card: settings of more than {_LONGEST_SETTINGS} characters"
    named = {*clients, *card.get("unaccounted", {})}
    if "traffic" in card and release.traffic.keys() != named:
        yield f"card: traffic of {sorted(release.traffic)}, not of {sorted(named)}"
    for name, counts in release.traffic.items():
        least = len(release.ledgers.get(name, b""))  # it came beside a reply
        if counts["sent"] < least or counts["received"] < 0:
            yield f"card: traffic of client {name} is {counts!r}, but its ledger alone has {least} bytes"
    asked = settings["privacy"]
    if plan is None or asked is None:
        if plan is not None or asked is not None:
            yield "card: plan and settings disagree on whether the run had privacy"
        return
    own = {} if release.synthetic is None else _CLOSED_WITH_S
    for name, closed in (_CLOSED | own).items():
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


def _synthetic_failures(card: Mapping[str, Any], synthetic: SyntheticDataset | None) -> Iterator[str]:
    """What the card says of S is so, and where there is none it says nothing."""
    settings = card["method"]["settings"]
    if synthetic is None:
        yield from (f"card: {name}, but there is no S" for name in ("ipc", "soft_labels") if name in card)
        return
    if not close_to(card["data"], data := synthetic.info.to_json()):
        yield f"card: data is {card['data']!r}, but it must be {data!r}"
    if not close_to(card.get("ipc"), synthetic.ipc):
        yield f"card: ipc is {card.get('ipc')!r}, but it must be {synthetic.ipc!r}"
    largest = float(synthetic.images.abs().max())
    if not largest <= LARGEST_PIXEL:
        yield f"synthetic.safetensors: a pixel of magnitude {largest:.3g} is beyond {LARGEST_PIXEL:g}"
    if settings.get("partition", 1) != synthetic.partition:
        yield f"card: partition is {settings.get('partition', 1)!r} in the settings, S has {synthetic.partition}"
    if settings.get("ipc", card.get("ipc")) != card.get("ipc"):
        yield f"card: ipc is {settings['ipc']!r} in the settings, {card.get('ipc')!r} beside them"
    soft = synthetic.soft_labels is not None
    if card.get("soft_labels", False) is not soft:
        yield f"card: soft_labels is {card.get('soft_labels', False)!r}, but it must be {soft!r}"


def _teacher_failures(card: Mapping[str, Any], teacher: TrainedNetwork | None) -> Iterator[str]:
    """The classifier that the card names is the one that is there, and takes examples of the card's data."""
    named = card.get("teacher")
    found = None if teacher is None else teacher.spec.to_json()
    if to_json(named) != to_json(found):  # in Python 1 == True
        yield f"card: teacher is {named!r}, but {TEACHER} holds {found!r}"
    if teacher is not None and not close_to(card["data"], teacher.info.to_json()):
        yield f"{TEACHER}: it is for {teacher.info}, the card is of {card['data']!r}"
