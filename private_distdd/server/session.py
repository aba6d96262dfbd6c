"""The server's side of one run, common to all methods: enrol clients, ask rounds, keep the running bill."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from private_distdd.errors import CheckpointError, QueryRefusedError
from private_distdd.privacy.accountants import epsilon
from private_distdd.privacy.ledger import parse
from private_distdd.server.accounts import Accounts, accounts_of
from private_distdd.server.line import Line
from private_distdd.server.reading import Wanted, is_consent, read_answer
from private_distdd.wire.engine import ASK, ENROL, LEDGER, Engine
from private_distdd.wire.message import Message
from private_distdd.wire.refusal import Refusal
from private_distdd.wire.run import Run

_log = logging.getLogger("private_distdd")
_Answer = TypeVar("_Answer")

TRIES = 3  # of one round: the same bytes again to those of whom nothing usable came
ABSENCES = 3  # rounds in a row after which a client that does not answer leaves the run


class Answers(NamedTuple):
    """What came of one round.

    Args:
        messages: in the order in which they were wanted.
        interrupted: Ctrl-C came before everybody had been waited for.
    """

    messages: list[Message]
    interrupted: bool


class Session:
    """One run as the server sees it.

    A client that refuses leaves the run.  One that is absent (its bytes were lost, came too late or garbled, or its
    computation failed) is asked again in the next round, and leaves after `ABSENCES` rounds in a row.

    Args:
        engine: how the clients are reached.
        run: what they are asked to agree to.
        answered: of a resumed run, messages used so far by client.
        active: of a resumed run, the clients that had not left it.
        quorum: share of those asked, in (0, 1], whose answers end a round's wait for the others.
        deadline: seconds that a round waits at most; None waits for ever.

    Attributes:
        active: clients that agreed and have not left since, in order.
        answered: messages used, by client.

    Raises:
        QueryRefusedError: no client agrees to the run.
        CheckpointError: no client's ledger has the messages of the resumed run.  Nothing was sent.
    """

    def __init__(
        self,
        engine: Engine,
        run: Run,
        answered: Mapping[str, int] | None = None,
        active: Sequence[str] | None = None,
        *,
        quorum: float = 1.0,
        deadline: float | None = None,
    ) -> None:
        self._line, self.run, self._quorum, self._deadline = Line(engine), run, quorum, deadline
        self._absences: dict[str, int] = {}
        if answered:
            self._check_ledgers(answered)
        invited = list(engine.client_ids if active is None else active)
        consents = self._enrol(invited)
        agreed = [name for name in invited if consents.get(name)]
        # Who was active decides the bytes of the queries in which a resumed run was interrupted: a client that does not
        # agree again leaves when it is asked.
        self.active = agreed if active is None else invited
        if not agreed and active != []:
            raise QueryRefusedError(
                "a run that no client agrees to",
                "at least one client whose budget, plan and data allow it",
                "Each client's own log (private_distdd_client.<id>) says why it refused.",
            )
        self._agreed = {name: self._line.ledgers[name] for name in agreed if name in self._line.ledgers}
        self.answered = dict.fromkeys(self.active, 0) | dict(answered or {})

    def ask(self, wanted: Mapping[str, Wanted]) -> Answers:
        """One round: the messages of those clients that answer; who left the run is passed over.

        Args:
            wanted: what each client is asked.
        """
        asked = {name: want for name, want in wanted.items() if name in self.active}
        pending, messages, interrupted = list(asked), dict[str, Message](), False
        enough = math.ceil(self._quorum * len(asked))
        end = None if self._deadline is None else time.monotonic() + self._deadline
        for again in range(TRIES):
            left = None if end is None else max(0.0, end - time.monotonic())
            if not pending or (again and (len(messages) >= enough or left == 0)):
                break
            requests = {name: asked[name].query.data for name in pending}
            replies, interrupted = self._line.exchange(ASK, requests, enough - len(messages), left)
            strangers = []
            for name in list(pending):
                answer = read_answer(self.run, len(self._line.client_ids), name, asked[name], replies.get(name))
                match answer:
                    case Message():
                        messages[name] = answer
                    case Refusal(code="not_enrolled"):
                        strangers.append(name)
                        continue
                    case Refusal(code="failed"):  # its charge is used up; it may try again in the next round
                        _log.warning("client %s could not answer", name)
                    case Refusal(code=code):
                        self.leave(name, code)
                    case None:
                        continue
                pending.remove(name)
            if interrupted:
                break
            if strangers:  # sites that were started anew: the same query again, which costs them nothing twice
                for name, agrees in self._enrol(strangers).items():
                    if not agrees:
                        self.leave(name, "it does not agree again")
                        pending.remove(name)
        for name in asked:
            self._note(name, name in messages, interrupted)
        return Answers([messages[name] for name in asked if name in messages], interrupted)

    def _note(self, name: str, answered: bool, interrupted: bool) -> None:
        if answered:
            self.answered[name] += 1
            self._absences[name] = 0
        elif name in self.active and not interrupted:
            self._absences[name] = self._absences.get(name, 0) + 1
            if self._absences[name] >= ABSENCES:
                self.leave(name, f"absent in {ABSENCES} rounds in a row")

    def leave(self, name: str, why: str) -> None:
        """Ask this client for nothing more."""
        _log.warning("client %s leaves the run: %s", name, why)
        self.active.remove(name)

    def _enrol(self, names: Iterable[str]) -> dict[str, bool]:
        """Offer the run: True for who agrees, False for who refuses; who is absent is left out."""
        pending, found = list(names), dict[str, bool]()
        for _ in range(TRIES):
            if not pending:
                break
            replies, interrupted = self._line.exchange(ENROL, dict.fromkeys(pending, self.run.to_bytes()))
            if interrupted:
                raise KeyboardInterrupt
            for name, reply in replies.items():
                refusal = Refusal.from_bytes(reply.answer)
                if refusal is not None:
                    _log.warning("client %s does not take part: %s", name, refusal.code)
                    found[name] = False
                elif is_consent(name, reply.answer):
                    found[name] = True
            pending = [name for name in pending if name not in found]
        for name in pending:
            _log.warning("client %s does not take part: absent", name)
        return found

    def _check_ledgers(self, answered: Mapping[str, int]) -> None:
        """Of a resumed run: are these the ledgers that paid for its messages?

        One client that lost its ledger is said, and is unaccounted at the end; where all did, they are the wrong ones.
        """
        self._line.exchange(LEDGER, dict.fromkeys(answered, b""))
        problems = []
        for client_id, count in answered.items():
            try:
                charges = parse(self._line.ledgers[client_id]).count(f"{self.run.run_id}:")
            except Exception as error:  # none came, or whatever bytes a client sends
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

    def epsilon(self) -> dict[str, float]:
        """This run's epsilon so far by client, by RDP: what has been spent, for the progress line."""
        return {client_id: self._spent(count) for client_id, count in self.answered.items()}

    def _spent(self, count: int) -> float:
        plan = self.run.plan
        if count == 0:
            return 0.0
        return math.inf if plan is None else epsilon([plan.event] * count, plan.delta, "rdp")

    def accounts(self) -> Accounts:
        """The ledgers of all clients that were ever active, and who cannot account for what was used.

        Everybody is asked once more for the ledger; of those who are absent by now, the last known one serves.  What
        has been paid for is released in any case: no client can take it back by losing or spoiling its ledger.
        """
        self._line.exchange(LEDGER, dict.fromkeys(self.answered, b""), deadline=self._deadline)
        return accounts_of(self.run, self.answered, self._agreed, self._line.ledgers)
