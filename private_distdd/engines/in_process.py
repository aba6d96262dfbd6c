"""Clients in this process, behind the same wall of bytes as distant ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import NoneType

from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError
from private_distdd.site.client import Client
from private_distdd.site.company import Company
from private_distdd.site.endpoint import Endpoint, Shared
from private_distdd.validate import require_kind
from private_distdd.wire.engine import ENROL, Engine, ExchangeInterrupted
from private_distdd.wire.run import Run


class InProcess:
    """Clients in this process: begun one after another, their examples in common micro-batches (`site.company`).

    What the process holds in memory depends on all their data: for clients of one owner (docs/theorem.md, section 9).

    Args:
        clients: at least one, with different names.
        simulated: the caller owns all the data: runs without privacy are answered unless a client's owner forbade them
            (`allow_without_privacy=False`).

    Raises:
        ConfigurationError: no clients, two of one name, or something that is no client.
    """

    def __init__(self, clients: Sequence[Client], *, simulated: bool = False) -> None:
        remedy = "Split a data set with dirichlet_split(train, num_clients), or build Client(name, dataset) objects."
        require_kind("clients", clients, (list, tuple), "a list of Client objects, or an engine", remedy)
        for client in clients:
            require_kind("one of the clients", client, Client, "a Client", remedy)
        self._clients = {client.client_id: client for client in clients}
        self._endpoints = {client_id: Endpoint(client) for client_id, client in self._clients.items()}
        self._simulated = simulated
        self.came: Callable[[str], object] = lambda name: None  # see `Telling`
        if not clients or len(self._clients) != len(clients):
            raise ConfigurationError(
                f"clients = {[client.client_id for client in clients]}",
                "at least one client, each with a name of its own",
                "Split a data set with dirichlet_split, or build Client objects.",
            )

    @property
    def client_ids(self) -> tuple[str, ...]:
        """The clients, in the order given."""
        return tuple(self._clients)

    def exchange(
        self,
        operation: str,
        requests: Mapping[str, bytes],
        *,
        enough: int | None = None,
        deadline: float | None = None,
    ) -> Mapping[str, bytes | None]:
        """See `Engine`.  Who is not begun before the deadline is absent, and pays nothing; `enough` ends no wait.

        Clients are begun in the order of their names.
        """
        end = None if deadline is None else time.monotonic() + deadline
        shared, company = Shared(), Company[bytes](self.came)
        try:
            try:
                # In one order everywhere: a client under way keeps others out, and engines in two threads that have the
                # same clients would wait for one another.
                for client_id, request in sorted(requests.items()):
                    if end is not None and time.monotonic() > end:
                        break
                    if operation == ENROL and self._simulated:
                        self._allow(client_id, Run.from_bytes(request))
                    company.begin(client_id, self._endpoints[client_id].handling(operation, request, shared))
            finally:  # after Ctrl-C, too: who was charged and waits gets an answer; who was at work when it came, none
                company.finish()
        except KeyboardInterrupt as error:
            raise ExchangeInterrupted({**dict.fromkeys(requests), **company.answers}) from error
        finally:  # after Ctrl-C while it finished
            company.close()
        return {**dict.fromkeys(requests), **company.answers}

    def _allow(self, client_id: str, run: Run) -> None:
        if run.plan is None:
            self._clients[client_id].allow_run_without_privacy(run.run_id)


def engine_of(clients: Sequence[Client] | Engine, info: DatasetInfo | None) -> tuple[Engine, DatasetInfo]:
    """How the clients are reached, and the public constants of their data.

    Args:
        clients: clients in this process, which are then taken for simulated ones, or an engine.
        info: the constants; by default those that all clients' data sets carry.

    Raises:
        ConfigurationError: no clients, two of one name, something that is no client, or no constants that all share.
        DataError: a client's data does not fit `info`.
    """
    require_kind("info", info, (DatasetInfo, NoneType), "a DatasetInfo, or None", "Pass DatasetInfo(...).")
    if isinstance(clients, Engine):
        return clients, _common([] if info is None else [info])
    engine = InProcess(clients, simulated=True)
    for client in clients:  # in one process the caller speaks for the owners
        if client.info is None and info is not None:
            client.describe(info)
    return engine, info or _common([client.info for client in clients if client.info is not None])


def _common(infos: Sequence[DatasetInfo]) -> DatasetInfo:
    if not infos or any(other != infos[0] for other in infos):
        raise ConfigurationError(
            f"{len(set(infos))} different data set infos among the clients",
            "one, carried by every data set or given as info=",
            "Pass fit(clients, info=DatasetInfo(name, num_classes, shape, mean, std)): public constants.",
        )
    return infos[0]
