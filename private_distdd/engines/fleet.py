"""Experimental: a SuperNode that carries bytes to a site and runs nobody's code.  No torch in here.

Flower's own SuperNode fetches and runs the ClientApp of whoever submits a run.  This one pulls messages from the
SuperLink, hands their frames to the site's socket as `engines.forwarder` does, and pushes what comes back.  It speaks
Flower's Fleet API by modules that are private to Flower, so it works with exactly the version it was written for.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from private_distdd.engines.forwarder import forward
from private_distdd.errors import ConfigurationError

FLOWER = "1.42.0"
POLL = 0.5  # seconds between two looks for messages

_log = logging.getLogger("private_distdd")


def carry(superlink: str, socket: str, key: str | os.PathLike[str], root_certificates: str | os.PathLike[str]) -> None:
    """Carry messages until SIGTERM or Ctrl-C, or until the server is lost.

    Args:
        superlink: "host:port".
        socket: path of the site's.
        key: file of the node's EC private key, in OpenSSH's form.
        root_certificates: file, in PEM, by which the server is known.

    Raises:
        ConfigurationError: Flower is of another version, or a file is not as it must be.
        SystemExit: the server cannot be reached, or does not admit the key (Flower's own words say which).

    Formal guarantee: as `forward`; and no code is taken from the server.
    """
    require_flower()
    private = _key(key)
    try:
        certificates = Path(root_certificates).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{root_certificates}: {error.strerror}", "certificates", "Ask the server.") from error
    from flwr.supercore.run import RunNotRunningException
    from flwr.supernode.fleet_http_connection import http_request_response

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leaving says goodbye, so that the key is free at once
    connection = http_request_response(superlink, False, certificates, (private, private.public_key()))
    with connection as (node, receive, send, _, _, pull, push, confirm):
        print(f"SuperNode ID: {node}, for {socket}", flush=True)
        while True:
            try:
                if (received := receive()) is not None:
                    _answer(node, socket, received, _Calls(send, pull, push, confirm))
                    continue
            except RunNotRunningException:  # it was stopped meanwhile; no Exception of Python's
                _log.info("a run was stopped while its message was under way")
            time.sleep(POLL)


class _Calls(NamedTuple):
    """What Flower's connection offers, of what is needed here."""

    send: Callable[..., Any]
    pull: Callable[..., Any]
    push: Callable[..., Any]
    confirm: Callable[..., Any]


def require_flower() -> None:
    """Refuse any other version than the one that this was written for.

    Raises:
        ConfigurationError: it is another, or none.
    """
    try:
        found = importlib.metadata.version("flwr")
    except importlib.metadata.PackageNotFoundError:
        found = "none"
    if found != FLOWER:
        raise ConfigurationError(
            f"Flower {found}", FLOWER, f"pip install flwr=={FLOWER}, or use Flower's own SuperNode."
        )


def _key(path: str | os.PathLike[str]) -> ec.EllipticCurvePrivateKey:
    make = 'ssh-keygen -t ecdsa -b 384 -N "" -f FILE'
    try:
        found = load_ssh_private_key(Path(path).read_bytes(), None)
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"{path}: {error}", "an EC private key", make) from error
    if not isinstance(found, ec.EllipticCurvePrivateKey):
        raise ConfigurationError(f"{path}, a key of another kind", "an EC private key", make)
    return found


def _answer(node: int, socket: str, received: tuple[Any, Any], calls: _Calls) -> None:
    """One message: fetched, handed to the site, and its reply sent; what fails is logged here and told to nobody."""
    from flwr.app import Context, Message, RecordDict
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
    from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree

    head, tree = received
    run = head.metadata.run_id
    try:
        message = pull_and_inflate_object_from_tree(
            tree, partial(calls.pull, run), partial(calls.confirm, run), return_type=Message
        )
        message.metadata.__dict__["_message_id"] = tree.object_id  # as Flower's own SuperNode does
        began = time.monotonic()
        reply = forward(message, Context(run, node, {"socket": socket}, RecordDict(), {}))
        reply.metadata.__dict__["_message_id"] = reply.object_id
        objects = get_all_nested_objects(reply)
        wanted, session = calls.send(reply, get_object_tree(reply), time.monotonic() - began)
        for name in wanted:
            calls.push(run, session, name, objects[name].deflate())
    except Exception as error:
        _log.warning("a message of run %d was lost: %s: %s", run, type(error).__name__, error)
