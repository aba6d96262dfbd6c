"""What methods ask for in runs without privacy only: how many examples there are, and shares of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from private_distdd.data.info import DatasetInfo
from private_distdd.server.reading import Wanted
from private_distdd.server.session import Session
from private_distdd.wire.message import Message
from private_distdd.wire.query import Query


def class_counts(session: Session, server_round: int) -> dict[str, list[int]]:
    """One query: how many examples of each class the clients hold; who does not tell leaves the run."""
    query = Query(session.run.run_id, server_round, "class_counts", {}, {}, None)
    want = Wanted(query, (session.run.info.num_classes, 0))
    answers = session.ask(dict.fromkeys(session.active, want), quorum=1.0)
    if answers.interrupted:
        raise KeyboardInterrupt
    counts = {m.client_id: m.counts.tolist() for m in answers.messages if m.counts is not None}
    for client_id in [name for name in session.active if name not in counts]:
        session.leave(client_id, "it told no counts, without which it cannot be asked for its share")
    return counts


def allocate(
    counts: Mapping[str, Sequence[int]], client_ids: Sequence[str], per_class: int, rng: np.random.Generator
) -> dict[str, tuple[int, ...]]:
    """How many examples of each class each client draws, as if all their data were in one place.

    Args:
        counts: examples held of each class, by client.
        client_ids: who draws; all of them have told.
        per_class: how many in all; fewer where they hold fewer.
        rng: public.
    """
    if not client_ids:
        return {}
    held = np.array([counts[client_id] for client_id in client_ids])
    drawn = [rng.multivariate_hypergeometric(column, min(per_class, column.sum())) for column in held.T]
    return {client_id: tuple(map(int, row)) for client_id, row in zip(client_ids, np.array(drawn).T, strict=True)}


def in_class_order(
    start: Tensor, messages: Sequence[Message], shares: Mapping[str, Sequence[int]], info: DatasetInfo
) -> Tensor:
    """S's start with the examples that clients sent in their classes' places, in the clients' order.

    Args:
        start: float32 [classes * ipc, *shape], in class order; stays where a client sent nothing.
        messages: of examples in the order of their classes, float32 [sum(share), values].
        shares: how many of each class each client was asked for.
        info: public class list and shape.
    """
    ipc, filled = len(start) // info.num_classes, [0] * info.num_classes
    for message in messages:
        labels = np.repeat(np.arange(info.num_classes), shares[message.client_id]).tolist()
        for label, example in zip(labels, message.values.reshape(-1, *info.shape), strict=True):
            start[label * ipc + filled[label]] = example
            filled[label] += 1
    return start
