"""How many clients a rule needs, and how many corrupt ones it is to survive."""

from __future__ import annotations

from private_distdd.aggregation.rule import Rule
from private_distdd.errors import ConfigurationError
from private_distdd.validate import require_count

PAST_HALF = "Past half no rule can tell who is honest: ask more clients, or guard against fewer corrupt ones."


def minority(messages: int) -> int:
    """The most that are fewer than half of so many."""
    return (messages - 1) // 2


def require_bad(bad: object) -> None:
    """Refuse what is no number of corrupt clients.

    Raises:
        ConfigurationError: it is none.
    """
    require_count("bad", bad, "Say how many corrupt clients to survive; where there are none, take the mean.")


def require_clients(rule: Rule, num_clients: float, least: int, why: str) -> None:
    """Refuse so few clients a round that the rule would be another one, or could promise nothing.

    Raises:
        ConfigurationError: there are fewer than `least`.
    """
    if num_clients < least:
        raise ConfigurationError(f"{rule} of {num_clients} clients asked a round", f"at least {least}", why)
