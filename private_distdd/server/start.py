"""How every run starts: public constants, plan, checkpoint, then clients, in the order that loses nothing."""

from __future__ import annotations

import os
import secrets
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError, NotPrivateWarning
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.server.checkpoint import CheckpointFolder
from private_distdd.server.layout import Layout
from private_distdd.server.session import Session
from private_distdd.server.state import Checkpoint
from private_distdd.wire.engine import Engine
from private_distdd.wire.run import Run


@dataclass(frozen=True)
class Started:
    """A run that clients agreed to.

    Args:
        session: the server's side of it.
        client_ids: everybody who was invited, in the engine's order.
        saved: where the run stands.
        folder: where that is kept, if it is.
    """

    session: Session
    client_ids: Sequence[str]
    saved: Checkpoint
    folder: CheckpointFolder | None


def start_run(
    engine: Engine,
    info: DatasetInfo,
    *,
    method: str,
    settings: Mapping[str, Any],
    plan: PrivacyPlan | None,
    message_format: str,
    check: Callable[[DatasetInfo], None],
    layout: Callable[[Run, Sequence[str]], Layout],
    quorum: float = 1.0,
    deadline: float | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
) -> Started:
    """Start a run, or go on with one; whatever can be refused is refused before any client is asked.

    Args:
        engine: how the clients are reached.
        info: what is public about their data.
        method: its name.
        settings: its JSON-able knobs, which must be the same for a run to go on.
        plan: the mechanism's constants, None without privacy.
        message_format: see `Run`.
        check: refuses what the method or this machine cannot work with.
        layout: from a new run and the invited clients to what its checkpoints look like.
        quorum, deadline: see `Session`.
        checkpoint, resume: see `Method.fit`.

    Raises:
        ConfigurationError, QueryRefusedError, CheckpointError: see `Method.fit`.
    """
    if resume and checkpoint is None:
        raise ConfigurationError("resume = True without a checkpoint", "both, or neither", "Give the run's folder.")
    clients = engine.client_ids
    identity = {"method": method, "clients": list(clients), "data": info.to_json(), **settings}
    folder = None if checkpoint is None else CheckpointFolder(checkpoint, identity)
    new = Checkpoint(Run(secrets.token_hex(8), info, plan, message_format))
    saved = folder.read(lambda: layout(new.run, clients)) if folder is not None and resume else new
    if saved.run.plan is None:
        warnings.warn(
            "privacy=None: this run is NOT private; messages are exact statistics of the clients' data.",
            NotPrivateWarning,
            stacklevel=3,
        )
    check(info)  # before any client is asked to reserve its budget
    if folder is not None and not resume:
        folder.start(saved)
    answered, active = saved.progress.get("answered"), saved.progress.get("active")
    begun, traffic = saved.progress.get("rounds"), saved.progress.get("traffic")
    session = Session(engine, saved.run, answered, active, traffic, begun=begun, quorum=quorum, deadline=deadline)
    return Started(session, clients, saved, folder)
