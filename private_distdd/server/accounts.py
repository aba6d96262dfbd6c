"""The clients' ledgers at the end of a run: do they account for the messages that were used?"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from private_distdd.errors import QueryRefusedError
from private_distdd.privacy.ledger import Pin, Sealed, parse
from private_distdd.wire.attestation import Signed
from private_distdd.wire.run import Enrolment, Run

_log = logging.getLogger("private_distdd")


@dataclass(frozen=True)
class Accounts:
    """The clients' ledgers at the end of a run.

    Args:
        ledgers: by client, the newest that is sound: whole, the client's own, with the agreement to the run, and with
            all lines of those before it.
        unaccounted: messages used, by client, of those of whom no sound ledger has a sealed message for each.
        signed: what came signed beside that very ledger, with the key that the client enrolled with.
        interrupted: Ctrl-C came while they were asked for.
    """

    ledgers: Mapping[str, bytes]
    unaccounted: Mapping[str, int]
    signed: Mapping[str, Signed]
    interrupted: bool = False


class KnownLedgers:
    """The clients' ledgers as they came: with the agreement, beside answers, and when the run was over.

    Nothing is read before the end.  Whatever bytes a client or an engine makes of one of them, an earlier one serves.
    """

    def __init__(self) -> None:
        self._agreed: dict[str, bytes] = {}
        self._beside: dict[str, bytes] = {}
        self._last: dict[str, bytes] = {}
        self._signed: dict[str, bytes] = {}
        self._keys: dict[str, str | None] = {}

    def agreed(self, enrolment: Enrolment, data: bytes) -> None:
        """The ledger that came beside the client's first consent; and the key of its latest."""
        self._agreed.setdefault(enrolment.client_id, data)
        self._keys[enrolment.client_id] = enrolment.public_key

    def answered(self, name: str, data: bytes) -> None:
        """One that came beside an answer that is used; empty where it could not be read at the site."""
        if data:
            self._beside[name] = data

    def refused(self, name: str, data: bytes) -> None:
        """One that came beside a refusal, which may be anybody's: it counts where it goes on from the one before."""
        if data.startswith(self._beside.get(name) or self._agreed.get(name) or b"{"):
            self._beside[name] = data

    def last(self, name: str, data: bytes, signed: bytes) -> None:
        """The ledger as it stood when the run was over, and what should be its attestation."""
        self._last[name], self._signed[name] = data, signed

    def accounts(self, run: Run, used: Mapping[str, int]) -> Accounts:
        """The newest sound ledger of each client that goes on from the sound ones before it.

        Args:
            run: what was agreed to.
            used: messages used, by client.
        """
        ledgers: dict[str, bytes] = {}
        lost: dict[str, int] = {}
        signed: dict[str, Signed] = {}
        for name, count in used.items():
            chosen, sealed = b"", -1
            for data in (self._agreed.get(name), self._beside.get(name), self._last.get(name)):
                found = -1 if not data or not data.startswith(chosen) else _sealed(run, name, data)
                if data and found >= 0:
                    chosen, sealed = data, found
            if chosen:
                ledgers[name] = chosen
                if self._last.get(name) == chosen and (own := self._attestation(name)) is not None:
                    signed[name] = own
            if count and sealed < count:
                _log.warning("the ledger of client %s does not account for its %d messages", name, count)
                lost[name] = count
            elif chosen and self._last.get(name) != chosen:
                _log.warning(
                    "the ledger of client %s at the end is not to be had: of charges after its last answer nothing is "
                    "known",
                    name,
                )
        return Accounts(ledgers, lost, signed)

    def _attestation(self, name: str) -> Signed | None:
        try:
            found = Signed.from_bytes(self._signed[name])
        except QueryRefusedError:  # a refusal, nothing, or anybody's bytes
            _log.warning("client %s has not signed its ledger", name)
            return None
        if self._keys.get(name) not in (None, found.public_key):
            _log.warning("client %s signed its ledger with another key than it enrolled with", name)
            return None
        return found


def _sealed(run: Run, name: str, data: bytes) -> int:
    """How many messages of the run this ledger seals; -1 if it is damaged, another's, or without the agreement."""
    try:
        history = parse(data)
    except Exception as error:  # anybody's bytes
        _log.warning("a ledger of client %s cannot be read: %s", name, error)
        return -1
    terms = {e.run_id: e.terms for e in history if isinstance(e, Pin)}
    agrees = run.plan is None or terms.get(run.run_id) == run.terms_digest
    if not agrees or history.opening.client_id not in (None, name):
        _log.warning("a ledger of client %s is another's, or does not agree to the run", name)
        return -1
    prefix = f"{run.run_id}:"
    return len({e.message_id for e in history if isinstance(e, Sealed) and e.message_id.startswith(prefix)})
