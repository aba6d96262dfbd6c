"""What methods ask for in runs without privacy only: how many examples there are, and shares of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from private_distdd.server.reading import Wanted
from private_distdd.server.session import Session
from private_distdd.wire.query import Query


def class_counts(session: Session, server_round: int) -> dict[str, list[int]]:
    """One query: how many examples of each class the clients hold, by client, of those that answer."""
    query = Query(session.run.run_id, server_round, "class_counts", {}, {}, None)
    want = Wanted(query, (session.run.info.num_classes, 0))
    answers = session.ask(dict.fromkeys(session.active, want))
    if answers.interrupted:
        raise KeyboardInterrupt
    return {m.client_id: m.counts.tolist() for m in answers.messages if m.counts is not None}


def allocate(
    counts: Mapping[str, Sequence[int]], client_ids: Sequence[str], per_class: int, rng: np.random.Generator
) -> dict[str, tuple[int, ...]]:
    """How many examples of each class each client draws, as if all their data were in one place.

    Args:
        counts: examples held of each class, by client.
        client_ids: who draws; who told no counts is left out.
        per_class: how many in all; fewer where they hold fewer.
        rng: public.
    """
    holders = [client_id for client_id in client_ids if client_id in counts]
    if not holders:
        return {}
    held = np.array([counts[client_id] for client_id in holders])
    drawn = [rng.multivariate_hypergeometric(column, min(per_class, column.sum())) for column in held.T]
    return {client_id: tuple(map(int, row)) for client_id, row in zip(holders, np.array(drawn).T, strict=True)}
