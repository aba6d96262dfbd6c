"""The form of a card: the fields it has and their types."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from private_distdd import __version__

PACKAGES = ("private-distdd", "torch", "opacus", "numpy")


@functools.cache  # each look would read all that the package says of itself
def version(name: str) -> str:
    """A package's version; our own is the code's.  One that is not installed is "unknown", and no reason to fail."""
    if name == "private-distdd":
        return __version__
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


# By hand, because it takes fifteen lines: JSON Schema would say the same at greater length, and takes 1.0 for an
# integer, where a card has one way to be written.
# The form of a card: the types allowed for each field, or the fields below it; more or fewer fields are a failure.
CardForm: TypeAlias = Mapping[str, Any] | tuple[type, ...]
_EPSILONS: CardForm = dict.fromkeys(("rdp", "prv", "prv_lower", "epsilon"), (float, str)) | {"note": (str,)}

_BILL: dict[str, CardForm] = {
    "charges": (int,),
    "messages_used": (int,),
    "claim": _EPSILONS,
    "spent": _EPSILONS,
    "so_far": _EPSILONS,
    "budget": (dict, type(None)),
    "ledger_lines": (int,),
    "ledger_head": (str,),
}

_SIGNED: CardForm = {  # not in every bill
    "format": (str,),
    "attestation": {
        "client_id": (str,),
        "run_id": (str,),
        "terms": (str,),
        "ledger_lines": (int,),
        "ledger_head": (str,),
        "epsilon": (float, str),
        "delta": (float,),
        "day": (str,),
        "throwaway": (bool,),
    },
    "public_key": (str,),
    "signature": (str,),
}

_TRAFFIC: CardForm = {"sent": (int,), "received": (int,)}

_CARD: dict[str, CardForm] = {
    "format": (str,),
    "private": (bool,),
    "unit": (str,),
    "relation": (str,),
    "noise_model": (str,),
    "run_id": (str,),
    "method": {"name": (str,), "settings": (dict,)},
    "data": (dict,),
    "plan": (dict, type(None)),
    "progress": {
        "rounds_planned": (int,),
        "rounds_done": (int,),
        "matching_steps": (int,),
        "stopped_early": (bool,),
    },
    "seeds": (str,),
    "clients": (dict,),
    "versions": dict.fromkeys(("python", *PACKAGES), (str,)),
}
# What only cards of releases have that hold such things.
_ADDED: dict[str, CardForm] = {"ipc": (int,), "soft_labels": (bool,), "teacher": {"name": (str,), "arguments": (dict,)}}
_SETTINGS = ("rounds", "privacy")  # every method states these


def _form_failures(value: object, form: CardForm, where: str) -> Iterator[str]:
    if isinstance(form, tuple):
        if type(value) not in form:
            yield f"{where} is {value!r}, not a {' or '.join(kind.__name__ for kind in form)}"
        return
    if not isinstance(value, Mapping):
        yield f"{where} is not an object"
        return
    yield from (f"{where}: {name} is missing" for name in sorted(form.keys() - value.keys()))
    yield from (f"{where}: {name!r} is no field of it" for name in sorted(value.keys() - form.keys()))
    for name in sorted(form.keys() & value.keys()):
        yield from _form_failures(value[name], form[name], f"{where}: {name}")


def form_failures(card: object) -> list[str]:
    """Fields that are missing, unknown or of another type, a line each; empty for a card that can be read."""
    if not isinstance(card, Mapping):
        return ["card is not an object"]
    # Not every card has them: only such as have lost ledgers, and those since bytes are counted.
    optional: dict[str, CardForm] = {"unaccounted": (int,), "traffic": _TRAFFIC}
    form = _CARD | {name: dict.fromkeys(card[name], own) for name, own in optional.items() if name in card}
    form |= {name: own for name, own in _ADDED.items() if name in card}
    failures = list(_form_failures(card, form, "card"))
    if not failures:
        failures += [f"card: settings: {n} is missing" for n in _SETTINGS if n not in card["method"]["settings"]]
        for name, bill in sorted(card["clients"].items()):
            signed = {"signed": _SIGNED} if isinstance(bill, Mapping) and "signed" in bill else {}
            failures += _form_failures(bill, _BILL | signed, f"client {name}")
    return failures
