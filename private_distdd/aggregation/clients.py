"""How many clients a rule needs, and how many corrupt ones it is to survive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from private_distdd.aggregation.rule import Rule
from private_distdd.errors import ConfigurationError
from private_distdd.validate import require_count


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


@dataclass(frozen=True)
class BelowHalf(Rule):
    """Rules that survive fewer than half, whoever they are; of at least 3 clients a round."""

    def require(self, num_clients: float) -> None:
        """Refuse fewer than 3 clients.

        Raises:
            ConfigurationError: there are fewer.
        """
        require_clients(self, num_clients, 3, "With fewer it is the mean: use that.")

    def breakdown(self, messages: int) -> int:
        """Fewer than half."""
        return (messages - 1) // 2


@dataclass(frozen=True)
class AgainstBad(Rule):
    """Rules that are told how many clients are corrupt.

    Args:
        bad: corrupt clients, >= 1.

    Raises:
        ConfigurationError: bad is out of range.
    """

    beyond: ClassVar[int] = 1
    """Clients that are needed beside twice as many as are bad: one, for past half no rule can tell who is honest."""

    bad: int = 1

    def __post_init__(self) -> None:
        require_bad(self.bad)

    def require(self, num_clients: float) -> None:
        """Refuse fewer than 2 bad clients and those beyond.

        Raises:
            ConfigurationError: there are fewer.
        """
        why = "Ask more clients, or guard against fewer corrupt ones; past half no rule can tell who is honest."
        require_clients(self, num_clients, 2 * self.bad + self.beyond, why)

    def breakdown(self, messages: int) -> int:
        """`bad`, of as many as `require` demands."""
        return self.bad if messages >= 2 * self.bad + self.beyond else 0
