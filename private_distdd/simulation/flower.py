"""Clients of Flower's Simulation Runtime: one data set split over its nodes, and no site anywhere."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch.utils.data import Dataset

from private_distdd import __version__
from private_distdd.data.load import load_dataset
from private_distdd.engines.forwarder import frame_of, record_of
from private_distdd.privacy.ledger import Ledger
from private_distdd.simulation.splits import dirichlet_split
from private_distdd.site.client import Client
from private_distdd.site.endpoint import Endpoint
from private_distdd.site.key import SiteKey
from private_distdd.wire.engine import ENROL
from private_distdd.wire.frame import PING, REQUEST_HEADER, Presence, request_header, response_frame

if TYPE_CHECKING:
    from flwr.app import Context, Message

_STATE, _RUN = "private_distdd", "run"


def simulated(message: Message, context: Context) -> Message:
    """A `ClientApp`'s answer to one message, by a simulated client: only its ledger and its key outlive the message.

    Args:
        message: holds a request's frame.
        context: its `node_config` says `partition-id` and `num-partitions`, as the Simulation Runtime sets them; its
            `run_config` says `simulation`, JSON: `dataset`, and perhaps `root`, as of `load_dataset`; perhaps `alpha`
            and `seed`, as of `dirichlet_split`; `ledgers`, a folder.
    """
    from flwr.app import ConfigRecord, Message

    frame = frame_of(message)
    header = request_header(frame[:REQUEST_HEADER])
    operation, request = header.operation, header.check(frame[REQUEST_HEADER:])
    number, count = (int(context.node_config[name]) for name in ("partition-id", "num-partitions"))
    client = _client(number, count, **json.loads(str(context.run_config["simulation"])))
    with client.ledger:
        endpoint = Endpoint(client)
        if operation == PING:
            response = Presence(client.client_id, __version__).to_bytes()
        elif operation == ENROL:
            context.state[_STATE] = ConfigRecord({_RUN: request})
            response = endpoint.handle(ENROL, request)
        else:
            if _STATE in context.state:  # it has agreed to this run, in a process that is no more
                endpoint.handle(ENROL, cast(bytes, context.state.config_records[_STATE][_RUN]))
            response = endpoint.handle(operation, request)
    return Message(record_of(response_frame(response)), reply_to=message)


def _client(
    number: int,
    count: int,
    *,
    dataset: str,
    ledgers: str,
    root: str | None = None,
    alpha: float = math.inf,
    seed: int = 0,
) -> Client:
    """One of the clients that the data set is split over."""
    folder, made = Path(ledgers), list[Client]()
    folder.mkdir(exist_ok=True)

    def make(client_id: str, part: Dataset[Any]) -> Client:
        if len(made) != number:
            made.append(Client(client_id, part))
        else:
            key, ledger = folder / f"{client_id}.pem", Ledger(folder / f"{client_id}.jsonl", client_id=client_id)
            made.append(
                Client(
                    client_id,
                    part,
                    ledger,
                    allow_without_privacy=True,
                    key=SiteKey.load(key) if key.exists() else SiteKey.create(key),
                )
            )
        return made[-1]

    return dirichlet_split(load_dataset(dataset, root=root)[0], count, alpha, seed=seed, make_client=make)[number]
