"""How every method opens a run: public constants, plan, checkpoint, then clients, in the order that loses nothing."""

from __future__ import annotations

import os
import secrets
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from private_distdd.data.info import DatasetInfo
from private_distdd.engines.in_process import InProcess, Transport
from private_distdd.errors import ConfigurationError, NotPrivateWarning
from private_distdd.networks.device import require_device
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.server.checkpoint import CheckpointFolder
from private_distdd.server.form import Form
from private_distdd.server.session import Session
from private_distdd.server.state import Checkpoint
from private_distdd.site.client import Client
from private_distdd.wire.run import Run


@dataclass(frozen=True)
class Opened:
    """A run that clients agreed to.

    Args:
        session: the server's side of it.
        client_ids: everybody who was invited, in the transport's order.
        saved: where the run stands.
        folder: where that is kept, if it is.
    """

    session: Session
    client_ids: Sequence[str]
    saved: Checkpoint
    folder: CheckpointFolder | None


def open_run(
    clients: Sequence[Client] | Transport,
    info: DatasetInfo | None,
    *,
    method: str,
    settings: Mapping[str, Any],
    plan: Callable[[Sequence[str]], PrivacyPlan | None],
    check: Callable[[DatasetInfo], None],
    form: Callable[[Run, Sequence[str]], Form],
    device: str,
    checkpoint: str | os.PathLike[str] | None,
    resume: bool,
) -> Opened:
    """Open a run, or go on with one; whatever can be refused is refused before any client is asked.

    Args:
        clients: see the methods' `fit`.
        info: see the methods' `fit`.
        method: its name.
        settings: its JSON-able knobs, which must be the same for a run to go on.
        plan: from the invited clients to the mechanism's constants, None without privacy.
        check: refuses public constants that the method cannot work with.
        form: from a new run and the invited clients to what its checkpoints look like.
        device: where the server computes.
        checkpoint: see the methods' `fit`.
        resume: see the methods' `fit`.

    Raises:
        ConfigurationError, QueryRefusedError, ModelError, DataError, CheckpointError: see the methods' `fit`.
    """
    if resume and checkpoint is None:
        raise ConfigurationError("resume = True without a checkpoint", "both, or neither", "Give the run's folder.")
    if not isinstance(clients, Transport) and info is not None:
        for client in clients:  # in one process the caller speaks for the owners
            if client.info is None:
                client.describe(info)
    transport = clients if isinstance(clients, Transport) else InProcess(clients)
    info = info or _info_of(clients)
    mechanism = plan(transport.client_ids)
    identity = {"method": method, "clients": list(transport.client_ids), "data": info.to_json(), **settings}
    folder = None if checkpoint is None else CheckpointFolder(checkpoint, identity)
    new = Checkpoint(Run(secrets.token_hex(8), info, mechanism))
    saved = folder.read(lambda: form(new.run, transport.client_ids)) if folder is not None and resume else new
    if saved.run.plan is None:
        warnings.warn(
            "privacy=None: this run is NOT private; messages are exact statistics of the clients' data.",
            NotPrivateWarning,
            stacklevel=3,
        )
        if not isinstance(clients, Transport):
            for client in clients:  # simulated ones, whose owner is the caller; behind a transport owners decide
                client.allow_run_without_privacy(saved.run.run_id)
    require_device(device)  # before any client is asked to reserve its budget
    check(info)
    if folder is not None and not resume:
        folder.start(saved)
    session = Session(transport, saved.run, saved.progress.get("answered"), saved.progress.get("active"))
    return Opened(session, transport.client_ids, saved, folder)


def public_rng(seed: int, *purpose: str | int) -> np.random.Generator:
    """A public generator for one purpose: no state is carried from round to round."""
    return np.random.default_rng([seed, *"/".join(map(str, purpose)).encode()])


def _info_of(clients: Sequence[Client] | Transport) -> DatasetInfo:
    infos = [] if isinstance(clients, Transport) else [c.info for c in clients if c.info is not None]
    if not infos or any(other != infos[0] for other in infos):
        raise ConfigurationError(
            f"{len(set(infos))} different data set infos among the clients",
            "one, carried by every data set or given as info=",
            "Pass fit(clients, info=DatasetInfo(name, num_classes, shape, mean, std)): public constants.",
        )
    return infos[0]
