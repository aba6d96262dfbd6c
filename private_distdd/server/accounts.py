"""The clients' ledgers at the end of a run: do they account for the messages that were used?"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from private_distdd.errors import PrivateDistDDError
from private_distdd.privacy.ledger import Pin, Sealed, parse
from private_distdd.wire.run import Run

_log = logging.getLogger("private_distdd")


@dataclass(frozen=True)
class Accounts:
    """The clients' ledgers at the end of a run.

    Args:
        ledgers: by client, as they stand; of an unaccounted client the one it agreed with, if that was sound.
        unaccounted: messages used, by client, of those whose last ledger was not to be had, damaged, another's, or
            lacks what it held before, the agreement to the run, or a sealed message for each that was used.
    """

    ledgers: Mapping[str, bytes]
    unaccounted: Mapping[str, int]


def accounts_of(
    run: Run, answered: Mapping[str, int], agreed: Mapping[str, bytes], newest: Mapping[str, bytes]
) -> Accounts:
    """Judge the newest ledgers.

    Args:
        run: what was agreed to.
        answered: messages used, by client.
        agreed: the ledgers as they came with the agreement; each newest one must go on from there.
        newest: the last that came, by client.
    """
    ledgers: dict[str, bytes] = {}
    lost: dict[str, int] = {}
    for name, used in answered.items():
        first = agreed.get(name, b"")
        if _accounts_for(run, name, used, newest.get(name, b""), first):
            ledgers[name] = newest[name]
            continue
        if used:
            lost[name] = used
        if _accounts_for(run, name, 0, first, b""):
            ledgers[name] = first
    return Accounts(ledgers, lost)


def _accounts_for(run: Run, name: str, used: int, data: bytes, before: bytes) -> bool:
    try:
        history = parse(data)
    except PrivateDistDDError as error:
        _log.warning("the ledger of client %s cannot be had: %s", name, error)
        return False
    prefix = f"{run.run_id}:"
    sealed = {e.message_id for e in history if isinstance(e, Sealed) and e.message_id.startswith(prefix)}
    terms = {e.run_id: e.terms for e in history if isinstance(e, Pin)}
    sound = (
        (run.plan is None or terms.get(run.run_id) == run.terms)
        and history.opening.client_id in (None, name)
        and data.startswith(before)
        and len(sealed) >= used
    )
    if not sound:
        _log.warning("the ledger of client %s does not account for its %d messages", name, used)
    return sound
