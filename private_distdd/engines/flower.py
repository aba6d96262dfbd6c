"""Sites anywhere, each beside a Flower SuperNode: an engine over the `Grid` of a Flower ServerApp."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from private_distdd.engines.forwarder import frame_of, record_of
from private_distdd.engines.sites import expiry_of
from private_distdd.errors import ConfigurationError, QueryRefusedError
from private_distdd.validate import require_count, require_identifier, require_number
from private_distdd.wire.engine import ExchangeInterrupted
from private_distdd.wire.frame import PING, Presence, request_frame, response_of

if TYPE_CHECKING:
    from flwr.app import Message
    from flwr.serverapp import Grid

POLL = 0.2  # seconds between two looks for replies; a SuperNode looks for requests every 3 s
LOOK = 1.0  # seconds between two looks for nodes, while a client is missing
SILENCE = 60.0  # seconds without a reply after which a node is asked whether it has lost the request

_log = logging.getLogger("private_distdd")


class _Asked(NamedTuple):
    """A request under way.

    Args:
        client_id: whose reply it will be.
        node: where it was sent.
        sent: when, by the monotonic clock.
        overdue: when the node is asked about it.
    """

    client_id: str
    node: int
    sent: float
    overdue: float


class _Ping(NamedTuple):
    """A ping under way.

    Args:
        node: that was asked who it is.
        about: the overdue request that made us ask, by its message's identifier; "" for a stranger.
    """

    node: int
    about: str = ""


class FlowerEngine:
    """Sites that Flower reaches, each by a SuperNode that forwards to it (`engines.forwarder`).

    Each node that is online says whose it is when it is pinged, and serves that client until it goes.  One that comes
    back, under the old number or a new one, is pinged again.  Of two nodes online that claim one client, the first
    serves and the other is refused.  Flower knows a node by its key, and not whose data it has: who has answered is
    known by what the sites sign (docs/verifying.md).

    A node answers one message after another.  So one that answers a ping, and not the request before it, has lost that
    request, which Flower does not tell: the client is then absent.

    Args:
        grid: of a Flower ServerApp.
        clients: the names of the clients that are invited; or how many, and then they are those that are there first.
        patience: seconds to wait for sites that are not there, > 0: here for all of them, and in an exchange, where
            everybody else has replied, for those that have gone.

    Attributes:
        client_ids: the clients that are invited.

    Raises:
        ConfigurationError: fewer sites came than there must be (of those named, none), an argument is out of range, or
            Flower is not installed.
        QueryRefusedError: a name is malformed.
    """

    def __init__(self, grid: Grid, clients: Sequence[str] | int, *, patience: float = 60.0) -> None:
        try:
            import flwr.app  # noqa: F401 - is it there?
        except ImportError as error:
            raise ConfigurationError(
                "no Flower in this Python", "one with it", "pip install 'private-distdd[flower]'"
            ) from error
        named = [] if isinstance(clients, int) else [require_identifier("client_id", name) for name in clients]
        named = list(dict.fromkeys(named))
        many = require_count("clients", clients if isinstance(clients, int) else len(named), "Name them.")
        self._grid = grid
        self.came: Callable[[str], object] = lambda name: None  # see `Telling`
        self._patience = require_number("patience", patience, 0, math.inf, "seconds, > 0 and finite", "60 are usual.")
        self._said: dict[int, str] = {}  # whose each node online is, in the order in which they said so
        self._pings: dict[str, _Ping] = {}  # by the message's identifier
        self._looked = -math.inf
        end = time.monotonic() + self._patience
        there = self._nodes(named or None)
        while len(there) < many and time.monotonic() < end:
            self._look(None)
            list(self._collect({}))
            time.sleep(POLL)
            there = self._nodes(named or None)
        if len(there) < (1 if named else many):
            raise ConfigurationError(
                f"sites of {sorted(self._said.values())} after {self._patience:g} s",
                f"some of {sorted(named)}" if named else f"{many} of them",
                "Start the sites and their SuperNodes, or wait longer.",
            )
        self.client_ids = tuple(named or sorted(there)[:many])

    def exchange(
        self,
        operation: str,
        requests: Mapping[str, bytes],
        *,
        enough: int | None = None,
        deadline: float | None = None,
    ) -> Mapping[str, bytes | None]:
        """See `Engine`.  A client without a node is waited for while others are, and for `patience`."""
        began, expiry = time.monotonic(), expiry_of(deadline)
        end = math.inf if deadline is None else began + deadline
        wanted = len(requests) if enough is None else enough
        replies: dict[str, bytes | None] = dict.fromkeys(requests)
        unsent, asked = dict(requests), dict[str, _Asked]()
        self._looked = -math.inf
        try:
            while True:
                if unsent:
                    self._look(unsent)
                for name, node in self._nodes(unsent).items():
                    identifier = self._send(node, request_frame(operation, unsent[name], expiry), deadline)
                    if identifier is None:  # it went since the last look
                        del self._said[node]
                        continue
                    now = time.monotonic()
                    asked[identifier] = _Asked(name, node, now, now + SILENCE)
                    del unsent[name]
                for name, reply in self._collect(asked):
                    replies[name] = reply
                    if reply is not None:
                        self.came(name)
                now = time.monotonic()
                given_up = not asked and (not unsent or now > began + self._patience)
                if given_up or now > end or sum(reply is not None for reply in replies.values()) >= wanted:
                    return replies
                self._remind(asked, now)
                time.sleep(min(POLL, max(0.0, end - now)))
        except KeyboardInterrupt as error:
            raise ExchangeInterrupted(replies) from error

    def _nodes(self, names: Collection[str] | None) -> dict[str, int]:
        """Where these clients are, those that are anywhere; None is everybody."""
        return {name: node for node, name in reversed(self._said.items()) if names is None or name in names}

    def _look(self, names: Collection[str] | None) -> None:
        """Forget nodes that went; if one of these clients is nowhere, ask strangers who they are; every `LOOK` s."""
        if time.monotonic() < self._looked + LOOK:
            return
        self._looked = time.monotonic()
        online = set(self._grid.get_node_ids())
        for node in self._said.keys() - online:
            _log.info("node %d of client %s went", node, self._said.pop(node))
        if names is None or set(names) - self._nodes(names).keys():
            for node in sorted(online - self._said.keys() - {ping.node for ping in self._pings.values()}):
                self._ping(_Ping(node))

    def _ping(self, ping: _Ping) -> None:
        identifier = self._send(ping.node, request_frame(PING, b""), None if ping.about else self._patience)
        if identifier is not None:
            self._pings[identifier] = ping

    def _remind(self, asked: dict[str, _Asked], now: float) -> None:
        """Ping the nodes whose replies are overdue, ever more rarely: they may be at work."""
        for identifier, request in asked.items():
            if now > request.overdue:
                self._ping(_Ping(request.node, identifier))
                asked[identifier] = request._replace(overdue=2 * now - request.sent)

    def _send(self, node: int, frame: bytes, seconds: float | None) -> str | None:
        """The message's identifier; None where Flower does not know the node."""
        from flwr.app import Message, MessageType

        # Flower reads a ttl of 0 as the usual one, 12 hours.
        message = Message(record_of(frame), node, MessageType.QUERY, ttl=None if seconds is None else max(seconds, 1.0))
        accepted = list(self._grid.push_messages([message]))
        identifier: str = message.metadata.message_id
        return identifier if identifier in accepted else None

    def _collect(self, asked: dict[str, _Asked]) -> Iterator[tuple[str, bytes | None]]:
        """Clients whose wait is over, with their replies, and out of `asked`; and note who answered a ping."""
        identifiers = [*asked, *self._pings]
        messages = self._grid.pull_messages(identifiers) if identifiers else []
        came = {message.metadata.reply_to_message_id: message for message in messages}
        for identifier in [identifier for identifier in asked if identifier in came]:
            yield asked.pop(identifier).client_id, _response(came[identifier])
        for identifier in [identifier for identifier in self._pings if identifier in came]:
            ping, message = self._pings.pop(identifier), came[identifier]
            if not ping.about:
                self._meet(ping.node, _response(message))
            elif ping.about in asked and message.has_content():
                name = asked.pop(ping.about).client_id
                late = list(self._grid.pull_messages([ping.about]))  # it came after that look, and before the ping's
                if not late:
                    _log.info("client %s is absent: node %d lost the request", name, ping.node)
                yield name, _response(late[0]) if late else None

    def _meet(self, node: int, response: bytes | None) -> None:
        """A stranger said who it is, or nothing."""
        try:
            name = Presence.from_bytes(response or b"").client_id
        except QueryRefusedError as error:
            _log.info("node %d has no site: %s", node, error)
            return
        if name in self._said.values():
            _log.warning("node %d is refused: node %d is client %s already", node, self._nodes([name])[name], name)
        self._said[node] = name


def _response(message: Message) -> bytes | None:
    """What a site responded; None where Flower or the site has nothing, or what came is none."""
    if message.has_error():
        _log.info("node %d gave error %d", message.metadata.src_node_id, message.error.code)  # its text may be anything
        return None
    try:
        return response_of(frame_of(message))
    except QueryRefusedError as error:
        _log.info("node %d sent no response: %s", message.metadata.src_node_id, error)
        return None
