"""The mean over the clients whose messages agree most with the others'."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from private_distdd.aggregation.clients import AgainstBad, require_bad
from private_distdd.aggregation.messages import check_messages, like
from private_distdd.aggregation.rule import register_rule


def agreement(messages: Tensor, counts: Tensor | None = None, bad: int = 1) -> Tensor:
    """The mean without the `bad` clients whose messages have the least sum of cosines with all others'.

    A client is judged by its whole message, all groups together.  One class of one client is hidden in the noise of its
    privacy, and distances are those of the noise; but over all classes and clients the noise has no direction in
    common, and the data have.  And whoever stays is in the mean with every class and by its counts, so that it does not
    matter how the data are split, as it does where each class has a rule of its own.  (Ours; after the cosines of
    FLTrust, Cao et al. 2021, which needs a trusted message.)

    Messages longer than the bad + 1-st longest weigh so much less, with their counts.

    Args:
        messages: float [clients, ...]; with counts float [clients, groups, ...] of plain sums.
        counts: int [clients, groups]; a group that none of those that stay holds is zero.
        bad: corrupt clients, >= 1.

    Returns:
        float [...].

    Raises:
        ConfigurationError: bad is out of range.
    """
    require_bad(bad)
    check_messages(messages, counts)
    kept = max(1, len(messages) - bad)
    vectors = messages.reshape(len(messages), -1).to(torch.float64)
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=1)
    ways = vectors / lengths.clamp(min=1e-300)[:, None]
    scores = (ways @ ways.T).fill_diagonal_(0).sum(dim=1)
    stays = scores >= scores.sort(descending=True).values[kept - 1] - 1e-9  # who ties but for rounding stays, too
    weights = stays * (lengths.kthvalue(kept).values / lengths.clamp(min=1e-300)).clamp(max=1)
    total = weights.sum() if counts is None else (weights[:, None] * counts).sum(dim=0)
    found = (weights @ vectors).reshape(messages.shape[1:])
    return torch.where(like(total, found) > 0, found / like(total, found), 0.0).to(messages.dtype)


@register_rule
@dataclass(frozen=True)
class Agreement(AgainstBad):
    """`agreement`; of more than 2 bad clients a round.

    Then no message weighs more than an honest one is long.
    """

    name: ClassVar[str] = "agreement"

    def __call__(self, messages: Tensor, counts: Tensor | None = None) -> Tensor:
        """See `agreement`."""
        return agreement(messages, counts, self.bad)
