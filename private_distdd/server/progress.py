"""What is told of a run while it lasts: matching loss, epsilon and bytes so far; and who has replied."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING

from private_distdd.rounding import in_bytes, rounded_up

if TYPE_CHECKING:
    from private_distdd.server.record import RoundRecord

_NAMED = 3  # of clients that are waited for


def describe(record: RoundRecord) -> str:
    """One line of words on a round: matching loss, the bill so far of the claim, and what a client sent at most."""
    loss = f"loss {record.matching_loss:.3f}  "
    if math.isnan(record.matching_loss):  # nothing was matched yet
        loss = "" if record.answered else "nobody answered  "
    bill = "NOT PRIVATE"
    if record.plan is not None:
        spent = max(record.epsilon.values(), default=0.0)
        bill = f"epsilon so far {rounded_up(spent, 3)} of {rounded_up(record.plan.epsilon, 3)}"
    sent = max((traffic.sent for traffic in record.traffic.values()), default=0)
    return f"{loss}{bill}  {in_bytes(sent)} sent"


def waiting(asked: Collection[str], came: Collection[str]) -> str:
    """How many of those asked have replied, and who has not, where these are few and others have.

    A refusal is a reply.

    Args:
        asked: names; all of them are looked at only where few are left, for this is called once a client.
        came: of those, a set.
    """
    left = len(asked) - len(came)
    names = (
        f", not yet {', '.join(name for name in asked if name not in came)}"
        if 0 < left <= min(_NAMED, len(came))
        else ""
    )
    return f"{len(came)} of {len(asked)} clients have replied{names}"
