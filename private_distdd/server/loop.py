"""The one loop of rounds: it runs any method, with progress, Ctrl-C, checkpoint, resume and release."""

from __future__ import annotations

import contextlib
import logging
import math
import statistics
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from private_distdd.errors import Interrupted, QueryRefusedError, ReleaseError
from private_distdd.files import numbered
from private_distdd.networks.trained import TrainedNetwork
from private_distdd.progress import Progress, showing
from private_distdd.release.build import build_sound_release
from private_distdd.release.release import Release
from private_distdd.server.progress import describe
from private_distdd.server.reading import Wanted
from private_distdd.server.record import RoundRecord
from private_distdd.server.start import Started
from private_distdd.server.state import Checkpoint
from private_distdd.synthetic.dataset import SyntheticDataset
from private_distdd.wire.message import Message

_log = logging.getLogger("private_distdd")
_SHOWN = 50  # steps whose mean loss is shown


class Kept(NamedTuple):
    """What a method wants to find again after a crash, beside who is active, who answered how often, and traffic.

    Args:
        progress: JSON-able values by name.
        state: tensors by name.
        memory: tensors by name, for each round that is remembered; those of one round never change.
    """

    progress: Mapping[str, Any]
    state: Mapping[str, Tensor]
    memory: Mapping[int, Mapping[str, Tensor]]


class Course(ABC):
    """One run of one method: what is asked, what is done with the answers, and what is kept.

    Args:
        started: the run, as clients agreed to it.
        rounds: T, the planned number.

    Attributes:
        session: the server's side of the run.
        info: what is public about the clients' data.
        rounds_begun, rounds_done: those whose messages may have been used, and those that are over.
        steps_done: on S.
        steps_forgotten: of these, those of a resumed run on an S that its checkpoint did not keep.
        loss: the mean distance that was matched last; NaN before the first step.
        progress: what is told of the run meanwhile.
    """

    unit: ClassVar[str] = "round"
    """What the progress bar counts, and after what `on_round_end` is called: each "round", or, for methods whose work
    comes after the rounds, each "step", and then once."""

    uses_part_of_a_round: ClassVar[bool] = False
    """Does Ctrl-C while clients are asked leave out the others, instead of ending the run?"""

    def __init__(self, started: Started, rounds: int) -> None:
        self.started, self.session, self.rounds = started, started.session, rounds
        self.info = self.session.run.info
        self.rounds_begun = self.rounds_done = self.steps_done = self.steps_forgotten = 0
        self.loss, self.interrupted = math.nan, False
        self.progress = Progress(0)

    @property
    @abstractmethod
    def planned(self) -> int:
        """How many units there will be: for the progress bar, and to tell a run that stopped early."""

    def prepare(self) -> None:  # noqa: B027 - most methods need nothing
        """What the first round needs; called once in a run's life, or again where its result was not kept."""

    @abstractmethod
    def wanted(self, t: int) -> Mapping[str, Wanted]:
        """What each client is asked in round t: the same bytes whenever it is called from the same state."""

    @abstractmethod
    def step(self, t: int, messages: Sequence[Message]) -> float:
        """Use round t's messages, which may be none; returns the loss, NaN where nothing was matched."""

    def finish(self) -> None:  # noqa: B027 - most methods are done by then
        """What comes after the last round."""

    @abstractmethod
    def keep(self) -> Kept:
        """Everything that `restore` and the seeds do not make anew."""

    @abstractmethod
    def restore(self, kept: Kept) -> None:
        """The inverse of `keep`."""

    @abstractmethod
    def dataset(self) -> SyntheticDataset | None:
        """S as it is; None for methods that make a network alone."""

    def teacher(self) -> TrainedNetwork | None:
        """A network that the messages trained, if the method trains one to be released, beside S or alone."""
        return None

    @property
    def ever_answered(self) -> list[str]:
        """Clients whose messages were used."""
        return [name for name, count in self.session.answered.items() if count]

    def words(self) -> str:
        """What is told of the steps so far."""
        return describe(self.record(self.ever_answered))

    def say(self, note: str) -> None:
        """Tell what goes on in the round that was begun last."""
        rounds = f"round {self.rounds_begun}/{self.rounds}: " if self.unit == "step" and self.rounds_begun else ""
        self.progress.say(rounds + note)

    def reporting(self) -> Callable[[int, float], None]:
        """For methods whose steps come after the rounds: what counts them, and tells their mean loss.

        They are numbered from 1, and go on from those done.
        """
        before, losses = self.steps_done, deque[float](maxlen=_SHOWN)

        def report(step: int, loss: float) -> None:
            losses.append(loss)
            self.steps_done, self.loss = before + step, statistics.fmean(losses)
            self.progress.at(self.steps_done, self.words)

        return report

    @property
    def chosen(self) -> Mapping[str, Any]:
        """Settings that were left open and that the data's public form decided, for the card."""
        return {}

    @property
    def done(self) -> int:
        """Units so far."""
        return self.rounds_done if self.unit == "round" else self.steps_done

    @property
    def stopped_early(self) -> bool:
        """Was less done than planned?"""
        return self.interrupted or self.rounds_done < self.rounds or self.done < self.planned

    def save(self) -> None:
        """Write the checkpoint, if there is one."""
        folder, kept = self.started.folder, self.keep()
        if folder is not None:
            session = self.session
            progress = {"active": session.active, "answered": session.answered, "traffic": session.traffic}
            progress |= kept.progress
            folder.write(Checkpoint(self.session.run, progress, kept.state, kept.memory))

    def record(self, answered: Sequence[str]) -> RoundRecord:
        """What is known now."""
        session = self.session
        used, traffic = dict(session.answered), session.traffic
        return RoundRecord(self.rounds_done, self.rounds, self.loss, session.run.plan, used, tuple(answered), traffic)


def run(
    course: Course,
    *,
    method: str,
    settings: Mapping[str, Any],
    seeds: str,
    progress: bool,
    on_round_end: Callable[[RoundRecord], None] | None,
    output: Path | None,
) -> Release:
    """Play the rounds that are left, and release S with the true bill, also after Ctrl-C.

    Args:
        course: one run of the method.
        method, settings, seeds: see `build_release`.
        progress: show it.
        on_round_end, output: see `Method.fit`.

    Raises:
        Interrupted: Ctrl-C, and what was paid for is released.
    """
    stops: list[KeyboardInterrupt] = []
    session, saved = course.session, course.started.saved
    if saved.progress:
        course.restore(Kept(saved.progress, saved.state, saved.memory))
    tell = on_round_end or (lambda record: None)
    with showing(course.planned, unit=course.unit, shown=progress, done=course.done) as course.progress:
        session.told = course.say
        course.prepare()
        with _noting(stops):
            try:
                while course.rounds_done < course.rounds and session.active and not course.interrupted:
                    record = _round(course, course.rounds_done)
                    if course.unit == "round":
                        course.progress.at(record.server_round, partial(describe, record))
                        tell(record)
                    else:
                        course.progress.at(course.steps_done, course.words)
            except KeyboardInterrupt:
                if course.unit == "round" or course.steps_done > course.steps_forgotten:
                    raise  # S is what it has come to
                course.interrupted = True  # what was paid for is still to be used
            if not session.active:
                _log.warning("no client is left: the run ends after round %d", course.rounds_done)
            course.finish()
        if course.unit == "step":
            with _noting(stops):  # what was paid for is released in any case
                tell(course.record(course.ever_answered))
        session.told = lambda words: course.progress.say(f"ledgers: {words}")
        accounts = session.accounts()
        course.progress.say("")
    release = build_sound_release(
        course.dataset(),
        session.run,
        accounts.ledgers,
        method=method,
        settings={**settings, **course.chosen},
        seeds=seeds,
        progress={
            "rounds_planned": course.rounds,
            "rounds_done": course.rounds_begun,
            "matching_steps": course.steps_done,
            "stopped_early": course.stopped_early,
        },
        messages=session.answered,
        traffic={name: traffic._asdict() for name, traffic in session.traffic.items()},
        unaccounted=accounts.unaccounted,
        signed=accounts.signed,
        teacher=course.teacher(),
    )
    stopped = bool(stops) or course.interrupted or accounts.interrupted
    if stopped and output is None and course.started.folder is not None:
        output = numbered(course.started.folder.path, "interrupted")
    if output is not None:
        try:
            release.save(output)
        except ReleaseError as error:  # it is paid for
            error.release = release
            raise
    if stopped:
        raise Interrupted(release, output)
    return release


@contextlib.contextmanager
def _noting(stops: list[KeyboardInterrupt]) -> Iterator[None]:
    """Leave the block at Ctrl-C, note it, and go on behind it."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stops.append(stop)


def _round(course: Course, t: int) -> RoundRecord:
    wanted = course.wanted(t)
    course.rounds_begun = t + 1  # from here on its messages may be used, should it be interrupted
    answers = course.session.ask(wanted)
    course.progress.say("")
    course.interrupted = answers.interrupted
    if answers.interrupted and not course.uses_part_of_a_round:
        raise KeyboardInterrupt
    course.loss = course.step(t, answers.messages)
    course.rounds_done = t + 1
    if not answers.interrupted:  # else all are asked again, and sealed messages come back free
        course.save()
    return course.record([message.client_id for message in answers.messages])


def nobody_answered() -> QueryRefusedError:
    """Where nothing can be made without an answer."""
    return QueryRefusedError(
        "a query that no client answers",
        "at least one client that can",
        "Each client's own log (private_distdd_client.<id>) says why it did not.",
    )


def named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as `Kept.state` holds several sets of them: "prefix/name"."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def unnamed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `named`, of those with this prefix."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}/")}
