"""Who signed the ledgers, and whether what they signed is what the card says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from private_distdd.errors import PrivateDistDDError, ReleaseError
from private_distdd.files import read_file
from private_distdd.limits import PAGE_BYTES
from private_distdd.release.bill import delta_of, run_of
from private_distdd.release.compare import close_to
from private_distdd.validate import require_identifier, require_kind
from private_distdd.wire.attestation import Signed, fingerprint_of, require_hex


class Signer(NamedTuple):
    """Whose signature the card holds for one client's ledger; `verify` says whether it is sound.

    Args:
        fingerprint: of the key that signed, 64 hexadecimal digits; None where nobody did.
        throwaway: the key ended with its process, by the client's own word.
        known: it is the fingerprint that the client's owner is known by.
    """

    fingerprint: str | None
    throwaway: bool
    known: bool

    def __str__(self) -> str:
        if self.fingerprint is None:
            return "not signed"
        return f"signed by {'its known owner' if self.known else f'an unknown key, {self.fingerprint}'}"


def signers_of(card: Mapping[str, Any], owners: Mapping[str, str]) -> dict[str, Signer]:
    """Who signed, for each client that the card names, those that are unaccounted too.

    Args:
        card: of the form that `form_failures` checks.
        owners: fingerprints of the owners' keys by client, got by another way than the release.
    """
    found = {}
    for name in sorted({*card["clients"], *card.get("unaccounted", {})}):
        signed = card["clients"].get(name, {}).get("signed")
        fingerprint = None if signed is None else fingerprint_of(signed["public_key"])
        known = fingerprint is not None and owners.get(name) == fingerprint
        found[name] = Signer(fingerprint, signed is not None and signed["attestation"]["throwaway"], known)
    return found


def signature_failures(card: Mapping[str, Any], name: str, record: Mapping[str, Any]) -> Iterator[str]:
    """What keeps a signature from being one of the card's line for this client."""
    try:
        signed = Signed.from_json(record)
    except (PrivateDistDDError, ValueError, TypeError, KeyError) as error:
        yield f"its signature cannot be read: {error}"
        return
    run, bill = run_of(card), card["clients"][name]
    for field, value in {
        "client_id": name,
        "run_id": run.run_id,
        "terms": run.terms_digest,
        "ledger_lines": bill["ledger_lines"],
        "ledger_head": bill["ledger_head"],
        "epsilon": bill["claim"]["epsilon"],
        "delta": delta_of(run),
    }.items():
        if not close_to(own := getattr(signed.attestation, field), value):
            yield f"{field} was signed as {own!r}, it is {value!r} on the card"
    if not signed.is_sound():
        yield "its signature is not one of the key that is named, for what is said to be signed"


def owner_failures(card: Mapping[str, Any], owners: Mapping[str, str]) -> Iterator[str]:
    """Clients whose ledgers are not signed by their known owners, and owners whose clients are not there."""
    signers = signers_of(card, owners)
    yield from (f"client {name}: {signer}" for name, signer in signers.items() if not signer.known)
    for name in sorted(owners.keys() - signers.keys()):
        yield f"client {name}: it has a known owner, and is not in this release"


def read_owners(path: Path) -> dict[str, str]:
    """Fingerprints of the owners' keys by client, from a JSON file: {"hospital-a": "5f70...", ...}.

    Raises:
        ReleaseError: it cannot be read, or is something else.
    """
    try:
        owners = json.loads(read_file(path, PAGE_BYTES), object_pairs_hook=_without_repeats)
        if not isinstance(owners, dict):
            raise ValueError("it is no object")
        return checked_owners(owners)
    except (OSError, ValueError, RecursionError, PrivateDistDDError) as error:
        raise ReleaseError(
            f"{path}: {error}", 'clients with fingerprints: {"hospital-a": "5f70..."}', "Ask the owners for theirs."
        ) from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("it names a client twice")
    return found


def checked_owners(owners: Mapping[str, str]) -> dict[str, str]:
    """The same, if they are clients' names with fingerprints.

    Raises:
        QueryRefusedError, ConfigurationError: they are not.
    """
    require_kind("owners", owners, Mapping, "a mapping {client_id: fingerprint}", "Read it with json.load.")
    return {
        require_identifier("client_id", name): require_hex(f"the fingerprint of {name}", digits, 32)
        for name, digits in owners.items()
    }
