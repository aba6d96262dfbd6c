"""What a release claims and what its clients were charged, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from private_distdd.release.release import Release


def claim(release: Release) -> str:
    """The largest epsilon among the clients, rounded up, and its grade; or that there is no guarantee."""
    from private_distdd.privacy.grade import grade_of
    from private_distdd.rounding import rounded_up

    if lost := release.card.get("unaccounted"):
        return f"NOT PRIVATE: the ledgers of {', '.join(sorted(lost))} do not account for their messages"
    if not release.private:
        return "NOT PRIVATE: no guarantee"
    most, delta = max(release.epsilon.values()), float(release.card["plan"]["delta"])
    return f"epsilon {rounded_up(most)} at delta {delta:g} a client: {grade_of(most, delta)} privacy"


def claim_record(release: Release) -> dict[str, Any]:
    """The same for programs: "private", and where it is, each client's "epsilon", "delta" and the "grade"."""
    from private_distdd.privacy.grade import grade_of

    if not release.private:
        return {"private": False}
    delta = float(release.card["plan"]["delta"])
    epsilon = dict(release.epsilon)
    return {"private": True, "epsilon": epsilon, "delta": delta, "grade": grade_of(max(epsilon.values()), delta)}


def print_bills(clients: Mapping[str, Any]) -> None:
    """A line for each different bill: the claim of the run and what was spent."""
    from private_distdd.rounding import rounded_up

    names: dict[str, list[str]] = {}
    for client_id, bill in clients.items():
        parts = ", ".join(f"{part} {rounded_up(bill[part]['epsilon'])}" for part in ("claim", "spent"))
        names.setdefault(parts, []).append(client_id)
    for line, group in names.items():
        who = ", ".join(group) if len(group) < 4 else f"{len(group)} clients ({group[0]}, {group[1]}, ... {group[-1]})"
        print(f"  {who}: {line}")
