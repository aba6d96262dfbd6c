"""The server's side of one run, common to all methods: enrol clients, ask rounds, keep the running bill."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from private_distdd.engines.in_process import Transport, ask, enroll
from private_distdd.errors import CheckpointError, QueryRefusedError
from private_distdd.limits import EXAMPLES, VALUE
from private_distdd.privacy.accountants import epsilon
from private_distdd.privacy.events import SampledGaussian
from private_distdd.privacy.ledger import Pin, Sealed, parse
from private_distdd.wire.message import Message
from private_distdd.wire.query import Query
from private_distdd.wire.refusal import Refusal
from private_distdd.wire.run import Run

_log = logging.getLogger("private_distdd")


@dataclass(frozen=True)
class Accounts:
    """The clients' ledgers at the end of a run.

    Args:
        ledgers: by client, as they stand; of an unaccounted client the newest that was sound, if there was one.
        unaccounted: messages used, by client, of those whose ledger at the end was not to be had, damaged, another's,
            or lacks what it held before, the agreement to the run, or a sealed message for each that was used.
    """

    ledgers: Mapping[str, bytes]
    unaccounted: Mapping[str, int]


class Session:
    """One run as the server sees it.

    Args:
        transport: how the clients are reached.
        run: what they are asked to agree to.
        answered: of a resumed run, messages used so far by client.
        active: of a resumed run, the clients that had not left it.

    Attributes:
        active: clients that agreed and have not refused a query since, in order.
        answered: messages used, by client.

    Raises:
        QueryRefusedError: no client agrees to the run.
        CheckpointError: no client's ledger has the messages of the resumed run.  Nothing was sent.
    """

    def __init__(
        self,
        transport: Transport,
        run: Run,
        answered: Mapping[str, int] | None = None,
        active: Sequence[str] | None = None,
    ) -> None:
        self._transport, self.run = transport, run
        self._known: dict[str, bytes] = {}  # the newest sound ledger of each client
        self._check_ledgers(answered or {})
        invited = list(transport.client_ids if active is None else active)
        agreed = [client_id for client_id in invited if self._enroll(client_id)]
        # Who was active decides the bytes of the queries in which a resumed run was interrupted: a client that does not
        # agree again leaves when it is asked.
        self.active = agreed if active is None else invited
        if not agreed and active != []:
            raise QueryRefusedError(
                "a run that no client agrees to",
                "at least one client whose budget, plan and data allow it",
                "Each client's own log (private_distdd_client.<id>) says why it refused.",
            )
        self.answered = dict.fromkeys(self.active, 0) | dict(answered or {})

    def _enroll(self, client_id: str) -> bool:
        reply = enroll(self._transport, client_id, self.run)
        if isinstance(reply, Refusal):
            _log.warning("client %s does not take part: %s", client_id, reply.code)
            return False
        self._remember(client_id, 0)
        return True

    def _check_ledgers(self, answered: Mapping[str, int]) -> None:
        """Of a resumed run: are these the ledgers that paid for its messages?

        One client that lost its ledger is said, and is unaccounted at the end; where all did, they are the wrong ones.
        """
        problems = []
        for client_id, count in answered.items():
            try:
                charges = parse(self._transport.ledger(client_id)).count(f"{self.run.run_id}:")
            except Exception as error:  # whatever a transport raises, and whatever bytes a client sends
                problems.append(f"the ledger of client {client_id!r} cannot be had: {error}")
                continue
            if charges < count:
                problems.append(
                    f"the ledger of client {client_id!r} has {charges} charges of run {self.run.run_id!r}, not {count}"
                )
        if problems and len(problems) == len(answered):
            raise CheckpointError(
                problems[0],
                "ledgers with the charges that the checkpoint's messages cost",
                "Open the run's own ledgers (Ledger(path)); those in memory end with their process.",
            )
        for problem in problems:
            _log.warning("%s", problem)

    def ask(
        self, client_ids: Iterable[str], query: Callable[[str], Query], shape: Callable[[str], tuple[int, int]]
    ) -> list[Message]:
        """The answers of those clients that give one; a client that refuses or fails is not asked again.

        Args:
            client_ids: whom to ask; those that left are passed over.
            query: each client's query.
            shape: the shape that each client's values must have; an answer of another one counts as a failure.
        """
        messages = []
        for client_id in client_ids:
            if client_id not in self.active:
                continue
            reply = ask(self._transport, client_id, query(client_id))
            if isinstance(reply, Message) and not self._usable(reply, shape(client_id)):
                reply = Refusal("failed")
            if isinstance(reply, Refusal):
                _log.warning("client %s leaves the run: %s", client_id, reply.code)
                self.active.remove(client_id)
                continue
            self.answered[client_id] += 1
            messages.append(reply)
        return messages

    def _usable(self, message: Message, shape: tuple[int, int]) -> bool:
        """Has it the form that was asked for, with values and counts that cannot end the run for all others?"""
        plan, counts = self.run.plan, message.counts
        scale = 1.0 if plan is None else plan.max_grad_norm / plan.divisor
        fair = counts is None or bool(((counts >= 0) & (counts <= EXAMPLES // len(self._transport.client_ids))).all())
        large = message.values.numel() and float(message.values.abs().max()) > VALUE * scale
        return message.values.shape == shape and (counts is None) == (plan is not None) and fair and not large

    def class_counts(self, server_round: int) -> dict[str, list[int]]:
        """Without privacy, one query: how many examples of each class the clients hold, by client."""
        query = Query(self.run.run_id, server_round, "class_counts", {}, {}, None)
        shape = (self.run.info.num_classes, 0)
        messages = self.ask(list(self.active), lambda client_id: query, lambda client_id: shape)
        return {m.client_id: m.counts.tolist() for m in messages if m.counts is not None}

    def epsilon(self) -> dict[str, float]:
        """This run's epsilon so far by client, by RDP: what has been spent, for the progress line."""
        return {client_id: self._spent(count) for client_id, count in self.answered.items()}

    def _spent(self, count: int) -> float:
        plan = self.run.plan
        if count == 0:
            return 0.0
        if plan is None:
            return math.inf
        return epsilon([SampledGaussian(plan.noise_multiplier, plan.sample_rate, count)], plan.delta, "rdp")

    def accounts(self) -> Accounts:
        """The ledgers of all clients that were ever active, and who cannot account for what was used.

        What has been paid for is released in any case: no client can take it back by losing or spoiling its ledger.
        """
        lost = {name: count for name, count in self.answered.items() if not self._remember(name, count) and count}
        return Accounts({name: self._known[name] for name in self.answered if name in self._known}, lost)

    def _remember(self, client_id: str, used: int) -> bool:
        """Ask for a client's ledger, and keep it if it is sound: does it account for `used` messages?"""
        try:
            data = self._transport.ledger(client_id)
            history = parse(data)
        except Exception as error:  # whatever a transport raises, and whatever bytes a client sends
            _log.warning("the ledger of client %s cannot be had: %s", client_id, error)
            return False
        prefix = f"{self.run.run_id}:"
        sealed = {e.message_id for e in history if isinstance(e, Sealed) and e.message_id.startswith(prefix)}
        agreed = {e.run_id: e.terms for e in history if isinstance(e, Pin)}
        if (
            (self.run.plan is not None and agreed.get(self.run.run_id) != self.run.terms)
            or history.opening.client_id not in (None, client_id)
            or not data.startswith(self._known.get(client_id, b""))
            or len(sealed) < used
        ):
            _log.warning("the ledger of client %s does not account for its %d messages", client_id, used)
            return False
        self._known[client_id] = data
        return True
