"""What is known after one round."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.server.line import Traffic


@dataclass(frozen=True)
class RoundRecord:
    """What is known after one round: public or post-processed values only.

    Args:
        server_round: rounds done so far, 1 ... rounds.
        rounds: the planned number.
        matching_loss: mean distance over the round's matching steps; NaN where nobody answered.
        plan: the mechanism's constants, None without privacy.
        used: messages of each client that were used so far.
        answered: clients whose messages were used in this round.
        traffic: bytes that each client has sent and received so far.
    """

    server_round: int
    rounds: int
    matching_loss: float
    plan: PrivacyPlan | None
    used: Mapping[str, int]
    answered: tuple[str, ...]
    traffic: Mapping[str, Traffic]

    def __repr__(self) -> str:
        return (
            f"RoundRecord(round {self.server_round} of {self.rounds}, loss {self.matching_loss:.3f}, "
            f"{len(self.answered)} of {len(self.used)} clients answered)"
        )

    @cached_property
    def epsilon(self) -> Mapping[str, float]:
        """This run's epsilon of each client so far, by the rule of the claim; infinite without privacy.

        It is computed when it is asked for, which may take tenths of a second.
        """
        counts, plan = set(self.used.values()), self.plan
        costs = {n: plan.epsilon_after(n) if plan is not None else math.inf if n else 0.0 for n in counts}
        return {client_id: costs[n] for client_id, n in self.used.items()}
