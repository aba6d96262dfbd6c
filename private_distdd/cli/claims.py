"""What a release claims and what its clients were charged, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from private_distdd.release.release import Release


def claim_record(release: Release) -> dict[str, Any]:
    """`Release.verdict` for programs: "private", and where it is, each client's "epsilon", "delta" and the "grade"."""
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
