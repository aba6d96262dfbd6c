"""Clients that attack with their messages: an engine where the bad ones' answers are replaced on their way out.

The attackers know everything, the honest clients' messages of the round included, and collude.  They enrol, compute and
pay as honest clients do, and keep their ledgers.  Wrong labels are in `simulation.mislabelling`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from private_distdd.engines.in_process import InProcess
from private_distdd.errors import ConfigurationError
from private_distdd.site.client import Client
from private_distdd.wire.engine import ASK
from private_distdd.wire.message import Message, stack
from private_distdd.wire.refusal import Refusal
from private_distdd.wire.reply import Reply


class Seen(NamedTuple):
    """What an attacker knows of a round.  Of messages with counts, these are means over examples.

    Args:
        own: what it would say if it were honest, float32 [groups, dimension].
        mean: over the honest clients that hold examples of a group, float32 [groups, dimension].
        spread: their standard deviation, by coordinate.
        honest: how many answered.
        bad: how many attack.
        rng: public.
    """

    own: Tensor
    mean: Tensor
    spread: Tensor
    honest: int
    bad: int
    rng: np.random.Generator


def sign_flip(seen: Seen) -> Tensor:
    """Minus its own message."""
    return -seen.own


def inner_product(seen: Seen) -> Tensor:
    """Minus the honest mean (inner-product manipulation, Xie et al. 2020), at least as long as its own message."""
    return _lengthened(-seen.mean, seen.own)


def a_little_is_enough(seen: Seen) -> Tensor:
    """Off the honest mean by as many standard deviations as a majority still hides (Baruch et al. 2019).

    It is at least as long as its own message: means over clients have little noise, and a server may see that.
    """
    supporters = (seen.honest + seen.bad) // 2 + 1 - seen.bad  # honest ones that are to lie further out
    share = min(max((seen.honest - supporters) / seen.honest, 0.5), 1 - 1e-6)
    return _lengthened(seen.mean - NormalDist().inv_cdf(share) * seen.spread, seen.own)


def gaussian(seen: Seen) -> Tensor:
    """Noise, ten times as long as its own message."""
    noise = torch.from_numpy(seen.rng.standard_normal(tuple(seen.own.shape), dtype=np.float32))
    return 10 * noise * _lengths(seen.own) / math.sqrt(seen.own.shape[1])


def not_a_number(seen: Seen) -> Tensor:
    """Its own message, and one NaN."""
    values = seen.own.clone()
    values[0, 0] = math.nan
    return values


def huge(seen: Seen) -> Tensor:
    """Its own message times 10^20."""
    return seen.own * 1e20


VALUES: Mapping[str, Callable[[Seen], Tensor]] = {
    "sign_flip": sign_flip,
    "inner_product": inner_product,
    "a_little_is_enough": a_little_is_enough,
    "gaussian": gaussian,
    "nan": not_a_number,
    "huge": huge,
}
"""Attacks that say something else, by name."""

ATTACKS = (*VALUES, "silent", "replayed")
"""All of them: who is silent answers nothing, and who replays sends the first answer for ever."""


class Attacked(InProcess):
    """Clients of a simulation, some of whom attack.

    Args:
        clients: all of them.
        bad: ids of those that attack.
        attack: one of `ATTACKS`.
        seed: steers the attackers' draws (public).

    Raises:
        ConfigurationError: as `InProcess`, no such attack, or an attacker that is no client.
    """

    def __init__(self, clients: Sequence[Client], bad: Collection[str], attack: str, *, seed: int = 0) -> None:
        super().__init__(clients, simulated=True)
        if attack not in ATTACKS or not set(bad) <= set(self.client_ids):
            raise ConfigurationError(
                f"attack = {attack!r} by {sorted(bad)}", f"one of {ATTACKS}, by some of the clients", "Correct it."
            )
        self._bad, self._attack, self._rng = frozenset(bad), attack, np.random.default_rng(seed)
        self._first: dict[str, bytes] = {}

    def exchange(
        self,
        operation: str,
        requests: Mapping[str, bytes],
        *,
        enough: int | None = None,
        deadline: float | None = None,
    ) -> Mapping[str, bytes | None]:
        """See `Engine`.  Refusals, and answers without values, stay as they are."""
        found = dict(super().exchange(operation, requests, enough=enough, deadline=deadline))
        replies = {name: Reply.from_bytes(data) for name, data in found.items() if operation == ASK and data}
        messages = {
            name: message
            for name, reply in replies.items()
            if Refusal.from_bytes(reply.answer) is None and (message := Message.from_bytes(reply.answer)).values.numel()
        }
        honest = [message for name, message in messages.items() if name not in self._bad]
        for name in self._bad.intersection(messages):
            answer = self._answer(name, messages[name], honest, len(messages) - len(honest))
            found[name] = None if answer is None else Reply(answer, replies[name].ledger).to_bytes()
        return found

    def _answer(self, name: str, own: Message, honest: Sequence[Message], bad: int) -> bytes | None:
        if self._attack == "silent":
            return None
        if self._attack == "replayed":
            return self._first.setdefault(name, own.data)
        said, _ = _means([own])
        others, held = _means(honest or [own])
        holders = held.sum(dim=0).clamp(min=1)
        mean = (others * held).sum(dim=0) / holders
        spread = ((others - mean).square() * held).sum(dim=0).div(holders).sqrt()
        values = VALUES[self._attack](Seen(said[0], mean, spread, len(honest or [own]), bad, self._rng))
        scale = 1 if own.counts is None else own.counts.clamp(min=1)[:, None]
        return dataclasses.replace(own, values=(values * scale).to(torch.float32)).data


def _means(messages: Sequence[Message]) -> tuple[Tensor, Tensor]:
    """Messages, or means over their examples, [clients, groups, dimension]; who holds any, [clients, groups, 1]."""
    values, counts = stack(messages)
    if counts is None:
        return values, torch.ones(*values.shape[:2], 1)
    return values / counts.clamp(min=1)[:, :, None], (counts > 0).to(values.dtype)[:, :, None]


def _lengthened(values: Tensor, own: Tensor) -> Tensor:
    """At least as long as its own message, group by group."""
    return values * (_lengths(own) / _lengths(values).clamp(min=1e-30)).clamp(min=1)


def _lengths(values: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(values, dim=1, keepdim=True)
    return lengths
