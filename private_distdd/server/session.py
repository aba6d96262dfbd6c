"""The server's side of one run, common to all methods: enrol clients, ask rounds, keep the running bill."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

from private_distdd.errors import CheckpointError, ConsentPendingError, QueryRefusedError
from private_distdd.privacy.ledger import parse
from private_distdd.server.accounts import Accounts, KnownLedgers
from private_distdd.server.line import Line, Traffic
from private_distdd.server.progress import waiting
from private_distdd.server.reading import Wanted, read_answer, read_consent
from private_distdd.wire.engine import ASK, ENROL, LEDGER, Engine
from private_distdd.wire.message import Message
from private_distdd.wire.refusal import Refusal
from private_distdd.wire.reply import Reply
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
        traffic: of a resumed run, bytes sent and received so far by client.
        begun: of a resumed run, the round that it goes on with; None where it asks no more.
        quorum: share of those asked, in (0, 1], whose answers end a round's wait for the others.
        deadline: seconds that a round waits at most; None waits for ever.

    Attributes:
        active: clients that agreed and have not left since, in order.
        answered: messages used, by client.
        told: called with words on whose answers have come, while clients are asked.

    Raises:
        QueryRefusedError: no client agrees to the run.
        ConsentPendingError: a client's owner has not agreed to it yet.
        CheckpointError: no client's ledger has the messages of the resumed run, or, with privacy, one has messages of
            later rounds.  Nothing was sent.
    """

    def __init__(
        self,
        engine: Engine,
        run: Run,
        answered: Mapping[str, int] | None = None,
        active: Sequence[str] | None = None,
        traffic: Mapping[str, Sequence[int]] | None = None,
        *,
        begun: int | None = None,
        quorum: float = 1.0,
        deadline: float | None = None,
    ) -> None:
        self._line, self.run, self._quorum, self._deadline = Line(engine), run, quorum, deadline
        self._line.traffic |= {name: Traffic(*kept) for name, kept in (traffic or {}).items()}
        self._known, self._absences = KnownLedgers(), dict[str, int]()
        self.told: Callable[[str], object] = lambda words: None
        self._waiting: set[str] = set()  # for their owners' consent
        if answered:
            self._check_ledgers(answered, begun)
        invited = list(engine.client_ids if active is None else active)
        consents, interrupted = self._enrol(invited, deadline)
        if interrupted:
            raise KeyboardInterrupt
        # Who was active decides the bytes of the queries in which a resumed run was interrupted: a client that does not
        # agree again leaves when it is asked.  Who is absent is asked for its consent again when it is asked.
        self.active = invited if active is not None else [name for name in invited if consents.get(name, True)]
        if self._waiting:
            raise ConsentPendingError(
                f"run {run.run_id!r}, which waits for the consent of {sorted(self._waiting)}",
                "a run that every client invited has agreed to or refused",
                "Nothing was spent.  When their owners have agreed (private-distdd site approve), start again with the "
                "same checkpoint= and resume=True; without a checkpoint it would be another run.",
            )
        if not any(consents.values()) and active != []:
            raise QueryRefusedError(
                "a run that no client agrees to",
                "at least one client whose budget, plan and data allow it",
                "Each client's own log (private_distdd_client.<id>) says why it refused.",
            )
        self.answered = dict.fromkeys(self.active, 0) | dict(answered or {})

    def ask(self, wanted: Mapping[str, Wanted], quorum: float | None = None) -> Answers:
        """One round: the messages of those clients that answer; who left the run is passed over.

        Args:
            wanted: what each client is asked.
            quorum: another share than the run's; 1 for what every client must be asked for.
        """
        active = set(self.active)
        asked = {name: want for name, want in wanted.items() if name in active}
        pending, messages, interrupted = list(asked), dict[str, Message](), False
        enough = quorum_of(self._quorum if quorum is None else quorum, len(asked))
        useless: set[str] = set()  # replied, and is no help: the wait goes on without counting it
        self._tell(asked)
        end = None if self._deadline is None else time.monotonic() + self._deadline
        for again in range(TRIES):
            left = None if end is None else max(0.0, end - time.monotonic())
            if interrupted or not pending or (again and (len(messages) >= enough or left == 0)):
                break
            requests = {name: asked[name].query.data for name in pending}
            needed = min(len(pending), enough - len(messages) + len(useless.intersection(pending)))
            replies, interrupted = self._line.exchange(ASK, requests, needed, left)
            strangers = []
            for name in list(replies):
                reply = replies.pop(name)  # read, its bytes are let go
                answer = read_answer(self.run, len(self._line.client_ids), name, asked[name], reply)
                if reply is None or answer is None:
                    useless.add(name)
                    continue
                if isinstance(answer, Message):
                    messages[name] = answer
                    self._known.answered(name, reply.ledger)
                    pending.remove(name)
                    continue
                useless.add(name)
                self._known.refused(name, reply.ledger)
                if answer.code == "not_enrolled":
                    strangers.append(name)
                    continue
                pending.remove(name)
                if answer.code == "failed":  # its charge is used up; it may try again in the next round
                    _log.warning("client %s could not answer", name)
                else:
                    self.leave(name, answer.code)
            if strangers and not interrupted:  # started anew: the same query again, which costs them nothing twice
                left = None if end is None else max(0.0, end - time.monotonic())
                consents, interrupted = self._enrol(strangers, left)
                useless.difference_update(strangers)
                for name in [name for name, agrees in consents.items() if not agrees]:
                    self.leave(name, "it does not agree again")
                    pending.remove(name)
        for name in asked:
            self._note(name, name in messages, interrupted)
        return Answers([messages[name] for name in asked if name in messages], interrupted)

    def _tell(self, asked: Collection[str]) -> None:
        """Say who of these has answered, from now on."""
        here = set[str]()

        def came(name: str) -> None:
            here.add(name)
            self.told(waiting(asked, here))

        self._line.came = came
        self.told(waiting(asked, here))

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

    def _enrol(self, names: Iterable[str], deadline: float | None) -> tuple[dict[str, bool], bool]:
        """Offer the run: True for who agrees, False for who refuses, nothing for who is absent; and was it Ctrl-C?"""
        pending, found, interrupted = list(names), dict[str, bool](), False
        for _ in range(TRIES):
            if not pending or interrupted:
                break
            offers = dict.fromkeys(pending, self.run.to_bytes())
            replies, interrupted = self._line.exchange(ENROL, offers, deadline=deadline)
            for name, reply in replies.items():
                refusal = None if reply is None else Refusal.from_bytes(reply.answer)
                self._waiting.discard(name)
                if refusal is not None and refusal.code == "waiting":
                    self._waiting.add(name)
                elif refusal is not None:
                    _log.warning("client %s does not take part: %s", name, refusal.code)
                    found[name] = False
                elif reply is not None and (consent := read_consent(name, reply.answer)) is not None:
                    found[name] = True
                    self._known.agreed(consent, reply.ledger)
            pending = [name for name in pending if name not in found and name not in self._waiting]
        for name in pending:
            _log.warning("client %s is absent: it has not agreed to the run", name)
        return found, interrupted

    def _ledgers(self, names: Iterable[str], request: bytes = b"") -> dict[str, Reply]:
        """The ledgers as they stand, of those clients that hand them over; signed where the run is asked about.

        Raises:
            KeyboardInterrupt: Ctrl-C meanwhile.
        """
        pending, found = list(names), dict[str, Reply]()
        self._tell(tuple(pending))
        for _ in range(TRIES):
            if not pending:
                break
            replies, interrupted = self._line.exchange(LEDGER, dict.fromkeys(pending, request), deadline=self._deadline)
            found |= {name: reply for name, reply in replies.items() if reply and reply.ledger}
            if interrupted:
                raise KeyboardInterrupt
            pending = [name for name in pending if name not in found]
        return found

    def _check_ledgers(self, answered: Mapping[str, int], begun: int | None) -> None:
        """Of a resumed run: are these the ledgers that paid for its messages, and is it the newest checkpoint?

        One client that lost its ledger is said, and is unaccounted at the end; where all did, they are the wrong ones.
        """
        problems, found = [], self._ledgers(answered)
        for client_id, count in answered.items():
            try:
                history = parse(found[client_id].ledger if client_id in found else b"")
            except Exception as error:  # none came, or whatever bytes a client sends
                problems.append(f"the ledger of client {client_id!r} cannot be had: {error}")
                continue
            charges, newest = history.count(f"{self.run.run_id}:"), history.newest_round(self.run.run_id)
            if self.run.plan is not None and begun is not None and newest > begun:
                raise CheckpointError(
                    f"a checkpoint before round {begun + 1}, and client {client_id!r} charged for round {newest + 1}",
                    "the run's newest checkpoint: rounds with privacy are asked in their order, and once",
                    "Take the newest copy, or start a new run; nothing was sent.",
                )
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

    @property
    def traffic(self) -> dict[str, Traffic]:
        """Bytes sent and received so far by every client that was ever active."""
        return {client_id: self._line.traffic[client_id] for client_id in self.answered}

    def accounts(self) -> Accounts:
        """The ledgers of all clients that were ever active, and who cannot account for what was used.

        Everybody is asked once more for the ledger, signed; of those who are absent by now, the last known one serves,
        and nobody has signed it.  What has been paid for is released in any case: no client can take it back by losing
        or spoiling its ledger.
        """
        interrupted = False
        try:
            for name, reply in self._ledgers(self.answered, self.run.to_bytes()).items():
                self._known.last(name, reply.ledger, reply.answer)
        except KeyboardInterrupt:  # the run is over, and its release is due
            _log.warning("interrupted: the last known ledgers serve")
            interrupted = True
        return replace(self._known.accounts(self.run, self.answered), interrupted=interrupted)


def quorum_of(share: float, count: int) -> int:
    """How many of so many clients a share is: rounded up, but for a hair that floating point adds."""
    return math.ceil(share * count - 1e-9)
