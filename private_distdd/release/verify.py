"""What does not fit together in a release: card, ledgers, S, page and picture against each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from private_distdd.errors import PrivateDistDDError
from private_distdd.privacy.ledger import History, parse
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.release.clients import client_failures
from private_distdd.release.contents import Contents
from private_distdd.release.folder import folder_failures, line_of
from private_distdd.release.form import form_failures
from private_distdd.release.progress import progress_failures
from private_distdd.release.signatures import owner_failures
from private_distdd.release.statement import statement_failures


def failures_of(release: Contents, owners: Mapping[str, str] | None = None) -> list[str]:
    """All that does not fit together, a line each; empty for a sound release.

    Args:
        release: what was read.
        owners: fingerprints by client, by which every ledger must be signed; None asks for no signature.
    """

    def signers(release: Contents) -> Iterator[str]:
        return iter(()) if owners is None else owner_failures(release.card, owners)

    found: list[str] = []
    for part, checks in (("card", _card_failures), ("folder", folder_failures), ("signers", signers)):
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
    yield from statement_failures(release, plan)
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
    yield from progress_failures(card, plan, histories)
