"""A Flower grid in this process, with faults: what tests put in the place of a SuperLink and its SuperNodes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

from flwr.app import ConfigRecord, Error, Message, RecordDict

from private_distdd import __version__
from private_distdd.engines.forwarder import frame_of, record_of
from private_distdd.site.client import Client
from private_distdd.site.endpoint import Endpoint
from private_distdd.wire.frame import PING, REQUEST_HEADER, Presence, request_header, response_frame

Fault = Callable[["Node", str, Message], Any]
"""From a node, an operation and the message to a reply (`Node.answer` is the honest one), a list of some, or None."""


class Node:
    """A SuperNode with a site behind it.

    Args:
        client: the site's; None with a fault that is everything.
        fault: what comes in place of honest replies.
    """

    def __init__(self, client: Client | None = None, fault: Fault | None = None) -> None:
        self.client, self.fault = client, fault
        self.endpoint = None if client is None else Endpoint(client)
        self.operations: list[str] = []
        self.expiries: list[int] = []

    def answer(self, message: Message) -> Message:
        frame = frame_of(message)
        header = request_header(frame[:REQUEST_HEADER])
        request = header.check(frame[REQUEST_HEADER:])
        assert self.client is not None
        assert self.endpoint is not None
        ping = header.operation == PING
        response = (
            Presence(self.client.client_id, __version__).to_bytes()
            if ping
            else self.endpoint.handle(header.operation, request)
        )
        return framed(message, response_frame(response))

    def replies(self, message: Message) -> list[Message]:
        header = request_header(frame_of(message)[:REQUEST_HEADER])
        self.operations.append(header.operation)
        self.expiries.append(header.expiry)
        found = self.answer(message) if self.fault is None else self.fault(self, header.operation, message)
        return found if isinstance(found, list) else [] if found is None else [found]


class FakeGrid:
    """What `FlowerEngine` needs of a Grid.  A node answers when it is looked for, one message after another.

    Attributes:
        nodes: those online, by number.
        offline: known to the grid, and gone: messages to them come back with an error.
        pushed: every message, and whether it was taken.
        on_pull, on_look: called before every pull, or look for nodes, with its number.
    """

    def __init__(self, *clients: Client) -> None:
        self.nodes: dict[int, Node] = {number: Node(client) for number, client in enumerate(clients, start=1)}
        self.offline: set[int] = set()
        self.pushed: list[Message] = []
        self.on_pull: Callable[[int], None] = lambda number: None
        self.on_look: Callable[[int], None] = lambda number: None
        self._numbers, self._pulls, self._looks = itertools.count(1), itertools.count(), itertools.count()
        self._waiting: dict[str, Message] = {}
        self._ready: dict[str, list[Message]] = {}

    def go(self, number: int) -> Node:
        """A node goes offline; what it had taken is lost."""
        self.offline.add(number)
        return self.nodes.pop(number)

    def get_node_ids(self) -> Iterable[int]:
        self.on_look(next(self._looks))
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        taken = []
        for message in messages:
            identifier = f"m{next(self._numbers)}"
            message.metadata.__dict__["_message_id"] = identifier
            self.pushed.append(message)
            known = message.metadata.dst_node_id in self.nodes or message.metadata.dst_node_id in self.offline
            taken.append(identifier if known else "")
            if known:
                self._waiting[identifier] = message
        return taken

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self.on_pull(next(self._pulls))
        wanted = list(message_ids)
        assert len(set(wanted)) == len(wanted)
        found = []
        for identifier in [identifier for identifier in self._waiting if identifier in wanted]:
            message = self._waiting[identifier]
            node = self.nodes.get(message.metadata.dst_node_id)
            if node is None:
                found.append(error_to(message, 5))
            else:
                found += node.replies(message)
            del self._waiting[identifier]
        return found


def framed(message: Message, frame: bytes) -> Message:
    return Message(record_of(frame), reply_to=message)


def error_to(message: Message, code: int) -> Message:
    return Message(Error(code, "a text of the owner's data"), reply_to=message)


def other_content(message: Message) -> Message:
    return Message(RecordDict({"private_distdd": ConfigRecord({"frame": "text"})}), reply_to=message)
