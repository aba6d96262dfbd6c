"""What the tests of faulty engines share: three clients, a query, and rounds."""

from __future__ import annotations

from collections.abc import Callable

from wiring import wanted

from private_distdd.data.dataset import ImageDataset
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.ledger import Charge
from private_distdd.privacy.plan import Privacy
from private_distdd.server.session import Session
from private_distdd.site.client import Client
from private_distdd.wire.engine import ASK
from private_distdd.wire.query import Query
from private_distdd.wire.run import Run

SPEC = ModelSpec("mlp", {"width": 8, "depth": 1})
PLAN = Privacy(noise_multiplier=1.0).plan(12)
SHAPE = (3, sum(p.numel() for p in SPEC.build((1, 8, 8), 3, 0).parameters()))
WEIGHTS = dict(SPEC.build((1, 8, 8), 3, 0).state_dict())
NAMES = ["c0", "c1", "c2"]
MakeImages = Callable[..., ImageDataset]
Fault = Callable[[str, str, int, bytes], "bytes | None"]


def query(run: Run, server_round: int = 0) -> Query:
    arguments = {"model": SPEC.to_json(), "granularity": "class"}
    return Query(run.run_id, server_round, "class_gradients", arguments, WEIGHTS, run.plan)


def only_c0(change: Callable[[int, bytes], bytes | None], operation: str = ASK) -> Fault:
    """What happens to c0's replies of one operation, by their number."""
    return lambda op, name, n, reply: change(n, reply) if (op, name) == (operation, "c0") else reply


def play(session: Session, run: Run, rounds: int) -> list[list[str]]:
    """Who answered, round by round."""
    return [[m.client_id for m in session.ask(wanted(NAMES, query(run, t), SHAPE)).messages] for t in range(rounds)]


def paid(client: Client) -> int:
    return sum(isinstance(entry, Charge) for entry in client.ledger)
