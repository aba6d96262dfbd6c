"""What is known after one round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from private_distdd.server.line import Traffic


@dataclass(frozen=True)
class RoundRecord:
    """What is known after one round: public or post-processed values only.

    Args:
        server_round: rounds done so far, 1 ... rounds.
        rounds: the planned number.
        matching_loss: mean distance over the round's matching steps; NaN where nobody answered.
        epsilon: this run's epsilon of each client so far, by RDP at the plan's delta; infinite without privacy.
        answered: clients whose messages were used in this round.
        traffic: bytes that each client has sent and received so far.
    """

    server_round: int
    rounds: int
    matching_loss: float
    epsilon: Mapping[str, float]
    answered: tuple[str, ...]
    traffic: Mapping[str, Traffic]
