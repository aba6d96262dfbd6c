"""From events to epsilon: what a history of releases costs, by three accountants with one protocol.

| accountant | for | answer |
| --- | --- | --- |
| `PRV` ("prv") | anything; the number on the card | a bracket, some 0.02 wide, or 1 % of a small epsilon |
| `RDP` ("rdp") | the running bill, tens of thousands of times; histories too large for PRV | an upper bound |
| `GDP` ("gdp") | releases of every example (sample_rate 1) | exact |

Importing this module does not import torch; asking PRV about sampled releases does (through Opacus).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

from private_distdd.errors import ConfigurationError
from private_distdd.privacy.accountants.base import Accountant, Bracket
from private_distdd.privacy.accountants.filter import RdpFilter
from private_distdd.privacy.accountants.gdp import GDP
from private_distdd.privacy.accountants.prv import PRV
from private_distdd.privacy.accountants.rdp import RDP
from private_distdd.privacy.events import Event

__all__ = [
    "GDP",
    "PRV",
    "RDP",
    "Accountant",
    "AccountantName",
    "Bracket",
    "RdpFilter",
    "best_epsilon",
    "bracket",
    "delta",
    "epsilon",
    "epsilon_delta_curve",
]

AccountantName: TypeAlias = Literal["rdp", "prv", "gdp"]

_BY_NAME: dict[str, Accountant] = {"rdp": RDP(), "prv": PRV(), "gdp": GDP()}


def _accountant(accountant: AccountantName | Accountant) -> Accountant:
    if isinstance(accountant, str):
        if accountant not in _BY_NAME:
            raise ConfigurationError(f"accountant = {accountant!r}", f"one of {sorted(_BY_NAME)}", 'Use "prv".')
        return _BY_NAME[accountant]
    return accountant


def bracket(events: Iterable[Event], delta: float, accountant: AccountantName | Accountant = "prv") -> Bracket:
    """What is known about epsilon at `delta` for the whole history.

    Args:
        events: every release of one client, in any order; none cost 0.
        delta: in (0, 1).
        accountant: a name, or an accountant of your own settings: `PRV(eps_error=0.001)`.

    Returns:
        lower <= epsilon <= upper, never NaN and never negative; infinite where a release carries no guarantee.

    Raises:
        ConfigurationError: an argument is outside its range, or "gdp" is asked about sampled releases.
    """
    return _accountant(accountant).bracket(events, delta)


def epsilon(events: Iterable[Event], delta: float, accountant: AccountantName | Accountant = "prv") -> float:
    """The upper bound of `bracket`: the number to claim."""
    return bracket(events, delta, accountant).upper


def best_epsilon(events: Iterable[Event], delta: float) -> float:
    """The smaller of RDP's and PRV's upper bounds: both are valid, so their minimum is.  `release.epsilon` is this."""
    history = list(events)
    return min(epsilon(history, delta, "rdp"), epsilon(history, delta, "prv"))


def delta(events: Iterable[Event], epsilon: float, accountant: AccountantName | Accountant = "prv") -> float:
    """An upper bound on delta at `epsilon` for the whole history, in [0, 1].

    Args:
        events: as for `bracket`.
        epsilon: finite, at least 0.
        accountant: as for `bracket`.

    Raises:
        ConfigurationError: as for `bracket`.
    """
    return _accountant(accountant).delta(events, epsilon)


def epsilon_delta_curve(
    events: Iterable[Event], epsilons: Iterable[float], accountant: AccountantName | Accountant = "prv"
) -> list[tuple[float, float]]:
    """The privacy curve: (epsilon, upper bound on delta) for each of `epsilons`, in the order given.

    PRV composes once for the whole curve.  Errors are those of `delta`.
    """
    history = list(events)
    return [(epsilon, delta(history, epsilon, accountant)) for epsilon in epsilons]
