"""How a release is made at the end of a run: every epsilon on its card is computed from the ledgers."""

from __future__ import annotations

import logging
import math
import platform
from collections.abc import Mapping
from typing import Any

from private_distdd.errors import PrivateDistDDError
from private_distdd.networks.trained import TrainedNetwork
from private_distdd.privacy.events import RELATION, UNIT
from private_distdd.privacy.ledger import parse
from private_distdd.release.bill import as_number, bill_of
from private_distdd.release.clients import client_failures
from private_distdd.release.folder import FORMAT
from private_distdd.release.form import PACKAGES, version
from private_distdd.release.release import Release
from private_distdd.release.signatures import signature_failures
from private_distdd.synthetic.dataset import SyntheticDataset
from private_distdd.wire.attestation import Signed
from private_distdd.wire.run import Run

_log = logging.getLogger("private_distdd")


def build_release(
    synthetic: SyntheticDataset | None,
    run: Run,
    ledgers: Mapping[str, bytes],
    *,
    method: str,
    settings: Mapping[str, Any],
    seeds: str,
    progress: Mapping[str, Any],
    messages: Mapping[str, int],
    traffic: Mapping[str, Mapping[str, int]] | None = None,
    unaccounted: Mapping[str, int] | None = None,
    signed: Mapping[str, Signed] | None = None,
    teacher: TrainedNetwork | None = None,
) -> Release:
    """Assemble a release; every epsilon on its card is computed from the ledgers.

    Args:
        synthetic: S, or None where the method makes none.
        run: what the clients agreed to.
        ledgers: each client's ledger file.
        method: its name.
        settings: its JSON-able knobs.
        seeds: what a seed steered and what it did not, in words.
        progress: rounds planned and done, matching steps, and whether the run stopped early.
        messages: messages used, by client.
        traffic: bytes "sent" and "received", by client.
        unaccounted: the same of clients whose ledger does not account for them; the release is then not private.
        signed: what their owners signed of these ledgers, by client.
        teacher: a classifier made from the same messages, and from nothing else of the clients; for S's own info.
    """
    bills = {name: bill_of(parse(data), run) for name, data in sorted(ledgers.items())}
    finite = bool(bills) and all(math.isfinite(as_number(bill["claim"]["epsilon"])) for bill in bills.values())
    card: dict[str, Any] = {
        "format": FORMAT,
        "private": run.plan is not None and finite and not unaccounted,
        "unit": UNIT,
        "relation": RELATION,
        "noise_model": "none" if run.plan is None else "local",
        "run_id": run.run_id,
        "method": {"name": method, "settings": dict(settings)},
        "data": run.info.to_json(),
        "plan": None if run.plan is None else run.plan.to_json(),
        "progress": dict(progress),
        "seeds": seeds,
        "clients": {name: bill | {"messages_used": messages[name]} for name, bill in bills.items()},
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    }
    for name, attestation in (signed or {}).items():
        card["clients"][name]["signed"] = attestation.to_json()
    if synthetic is not None:
        card["ipc"] = synthetic.ipc
    if unaccounted:
        card["unaccounted"] = dict(unaccounted)
    if traffic is not None:
        card["traffic"] = {name: dict(traffic[name]) for name in sorted({*bills, *(unaccounted or {})})}
    if synthetic is not None and synthetic.soft_labels is not None:
        card["soft_labels"] = True
    if teacher is not None:
        card["teacher"] = teacher.spec.to_json()
    return Release(synthetic, card, ledgers, teacher=teacher)


def build_sound_release(
    synthetic: SyntheticDataset | None,
    run: Run,
    ledgers: Mapping[str, bytes],
    *,
    messages: Mapping[str, int],
    unaccounted: Mapping[str, int],
    signed: Mapping[str, Signed] | None = None,
    **others: Any,
) -> Release:
    """`build_release` without the ledgers that would fail at whoever verifies: their clients are unaccounted.

    Signatures that would fail are left out, too.  What has been paid for is released, whatever a single client makes of
    its own ledger.  Arguments are those of `build_release`.
    """
    kept, lost, proven = dict(ledgers), dict(unaccounted), dict(signed or {})
    for name, data in ledgers.items():
        try:
            alone = build_release(synthetic, run, {name: data}, messages=messages, unaccounted=lost, **others)
            failure = next(client_failures(alone.card, run.plan, name, parse(data)), None)
        except PrivateDistDDError as error:  # events that nobody can price, or lines that break a rule
            failure = str(error)
        if failure is not None:
            _log.warning("the ledger of client %s is left out: %s", name, failure)
            del kept[name]
            proven.pop(name, None)
            if messages[name]:
                lost[name] = messages[name]
        elif name in proven:
            unfit = next(signature_failures(alone.card, name, proven[name].to_json()), None)
            if unfit is not None:
                _log.warning("the signature of client %s is left out: %s", name, unfit)
                del proven[name]
    return build_release(synthetic, run, kept, messages=messages, unaccounted=lost, signed=proven, **others)
