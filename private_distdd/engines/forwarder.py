"""What a Flower SuperNode runs beside a site: a frame in, through the site's socket, a frame out.  No torch in here.

It reads nothing but the SuperNode's own configuration, `flower-supernode --node-config 'socket="/path/site.sock"'`.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from private_distdd.engines.relay import relay
from private_distdd.errors import QueryRefusedError
from private_distdd.validate import is_real
from private_distdd.wire.frame import REQUEST_HEADER, request_header, response_frame

if TYPE_CHECKING:
    from flwr.app import Context, Message, RecordDict

_RECORD, _FRAME = "private_distdd", "frame"
_log = logging.getLogger("private_distdd")


def forward(message: Message, context: Context) -> Message:
    """A `ClientApp`'s answer to one message: the site's response, or an empty one where it has none.

    Args:
        message: holds a request's frame.
        context: of the SuperNode, whose `node_config` says `socket`, the path of the site's, and perhaps `seconds`, the
            longest that one request may take (a request that expires ends the wait earlier).

    Formal guarantee: what leaves is what the site's socket gave, or nothing.  No error's text leaves: Flower would send
    an exception's to the server.
    """
    from flwr.app import Message

    try:
        response = _relayed(frame_of(message), context)
    except Exception as error:  # whatever it is, its text stays on this machine
        _log.warning("the site gave no answer: %s: %s", type(error).__name__, error)
        response = response_frame(b"")
    return Message(record_of(response), reply_to=message)


def record_of(frame: bytes) -> RecordDict:
    """A frame as a Flower message's content.

    A `ConfigRecord`, the simplest that holds bytes.  Flower takes about .06 s to write a MiB into it (one CPU core).
    """
    from flwr.app import ConfigRecord, RecordDict

    return RecordDict({_RECORD: ConfigRecord({_FRAME: frame})})


def frame_of(message: Message) -> bytes:
    """The frame in a Flower message.

    Raises:
        QueryRefusedError: it holds none.
    """
    record = message.content.config_records.get(_RECORD) if message.has_content() else None
    frame = None if record is None else record.get(_FRAME)
    if not isinstance(frame, bytes):
        raise QueryRefusedError("a Flower message without a frame", "one that holds a frame", "Send it again.")
    return frame


def _relayed(frame: bytes, context: Context) -> bytes:
    socket, seconds = context.node_config.get("socket"), context.node_config.get("seconds")
    if not isinstance(socket, str) or not (seconds is None or is_real(seconds)):
        raise QueryRefusedError(
            f"node configuration socket = {socket!r}, seconds = {seconds!r}",
            "a path, and a number or nothing",
            "Start the SuperNode with --node-config 'socket=\"/path/site.sock\"'.",
        )
    limits = [] if seconds is None else [float(seconds)]
    header = request_header(frame[:REQUEST_HEADER])
    if len(frame) != REQUEST_HEADER + header.length:  # the site would wait for the rest
        raise QueryRefusedError(f"{len(frame)} bytes", f"the {header.length} after the header", "Send all of them.")
    if header.expiry:
        limits.append(header.expiry - time.time())
    return relay(socket, frame, min(limits, default=None))
