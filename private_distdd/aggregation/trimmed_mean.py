"""The coordinate-wise trimmed mean over clients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from private_distdd.aggregation.messages import over_holders
from private_distdd.aggregation.rule import Rule, register_rule
from private_distdd.errors import ConfigurationError
from private_distdd.validate import is_real


def trimmed_mean(messages: Tensor, counts: Tensor | None = None, trim: float = 0.1) -> Tensor:
    """The coordinate-wise mean without the floor(trim * clients) smallest and largest values (Yin et al. 2018).

    Args:
        messages: float [clients, ...]; with counts plain sums, float [clients, groups, ...].
        counts: int [clients, groups]; clients without examples of a group are left out of it.
        trim: share cut at each end, 0 <= trim < 0.5.

    Returns:
        float [...].

    Raises:
        ConfigurationError: trim is out of range.
    """
    _check_share("trim", trim)

    def trimmed(values: Tensor) -> Tensor:
        cut = math.floor(trim * len(values))
        return values.sort(dim=0).values[cut : len(values) - cut].mean(dim=0)

    return over_holders(messages, counts, trimmed)


@register_rule
@dataclass(frozen=True)
class TrimmedMean(Rule):
    """`trimmed_mean`; of so many clients a round that one is cut at each end.

    Args:
        share: of the clients, cut at each end, in (0, 0.5).

    Raises:
        ConfigurationError: the share is out of range.
    """

    name: ClassVar[str] = "trimmed_mean"
    share: float = 0.1

    def __post_init__(self) -> None:
        _check_share("share", self.share)

    def __call__(self, messages: Tensor, counts: Tensor | None = None) -> Tensor:
        """See `trimmed_mean`."""
        return trimmed_mean(messages, counts, self.share)

    def breakdown(self, messages: int) -> int:
        """Those that are cut at each end."""
        return math.floor(self.share * messages)

    def require(self, num_clients: float) -> None:
        """Refuse so few clients that nobody would be cut.

        Raises:
            ConfigurationError: there are fewer than 1 / share.
        """
        if self.share * num_clients < 1:
            raise ConfigurationError(
                f"trimmed_mean with share = {self.share} and {num_clients} clients asked a round",
                "at least 1 / share clients (share > 0), so that one is cut at each end",
                "Ask more clients, or trim more.",
            )


def _check_share(name: str, share: float) -> None:
    if not is_real(share) or not 0 <= share < 0.5:
        raise ConfigurationError(
            f"{name} = {share!r}", f"0 <= {name} < 0.5", "0.1 cuts a tenth of the clients at each end."
        )
