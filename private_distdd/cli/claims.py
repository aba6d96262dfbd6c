"""What a release claims and what its clients were charged, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from private_distdd.release.release import Release


def claim(release: Release) -> str:
    """The largest epsilon among the clients, rounded up, or that there is no guarantee."""
    from private_distdd.rounding import rounded_up

    if lost := release.card.get("unaccounted"):
        return f"NOT PRIVATE: the ledgers of {', '.join(sorted(lost))} do not account for their messages"
    if not release.private:
        return "NOT PRIVATE: no guarantee"
    most = max(release.epsilon.values())
    weak = "; above 10 a claim is weak" if most > 10 else ""
    return f"epsilon {rounded_up(most)} at delta {release.card['plan']['delta']:g} a client{weak}"


def print_bills(clients: Mapping[str, Any]) -> None:
    """A line for each different bill: the claim of the run and what was spent, by both accountants."""
    from private_distdd.rounding import rounded_up

    names: dict[str, list[str]] = {}
    for client_id, bill in clients.items():
        by = [
            f"{part} {rounded_up(bill[part]['rdp'])} by RDP, {rounded_up(bill[part]['prv'])} by PRV"
            for part in ("claim", "spent")
        ]
        names.setdefault("; ".join(by), []).append(client_id)
    for line, group in names.items():
        who = ", ".join(group) if len(group) < 4 else f"{len(group)} clients ({group[0]}, {group[1]}, ... {group[-1]})"
        print(f"  {who}: {line}")
