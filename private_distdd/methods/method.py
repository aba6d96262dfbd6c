"""What every method is: knobs that are checked when it is made, and `fit`, which runs it on a federation."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

import numpy as np

from private_distdd.aggregation import Aggregate, Rule, rule_of
from private_distdd.data.info import DatasetInfo
from private_distdd.engines.in_process import engine_of
from private_distdd.errors import ConfigurationError
from private_distdd.networks.device import require_device
from private_distdd.networks.generators import Generator
from private_distdd.privacy.plan import Privacy, PrivacyPlan
from private_distdd.questions.register import PRIVATE_QUESTIONS
from private_distdd.release.release import Release, require_new
from private_distdd.server.layout import Layout
from private_distdd.server.loop import Course, run
from private_distdd.server.record import RoundRecord
from private_distdd.server.session import quorum_of
from private_distdd.server.start import Started, start_run
from private_distdd.site.client import Client
from private_distdd.validate import require_count, require_number, require_path
from private_distdd.wire.engine import Engine
from private_distdd.wire.packing import PLAIN, require_format
from private_distdd.wire.run import Run


@dataclass(frozen=True)
class Method(ABC):
    """A method: the questions it asks, how it matches the answers, and how S is parametrised.

    A new one is a subclass with `@register_method`, a frozen dataclass; docs/map.md says which file to copy.

    Args:
        aggregator: how messages become one: "mean", "sum", "median", another rule's name, a rule with its parameters as
            `TrimmedMean(share=0.2)`, or a callable of your own (see `aggregation.Aggregate`).
        quorum: share of the clients asked, in (0, 1], whose answers end a round's wait for the others.
        deadline: seconds that a round waits at most, > 0; None waits for everybody.
        privacy: the mechanism of every message; None is not private, and is said loudly.
        message_format: with privacy only: how a message's values are packed once they are noisy, which costs no
            privacy: "float32" (as they are), "float16", "int8" or "int4" (see `wire.packing`).  The last two cut what
            is beyond 31.75 and 7 standard deviations of a client's noise, as sums over very many examples may be.
        device: where the server computes ("cpu", "cuda").
        seed: steers everything public, >= 0.  Never the noise.

    Raises:
        ConfigurationError: a value is outside its range.
    """

    name: ClassVar[str]
    """What cards say; in lower case, what the command line takes."""

    question: ClassVar[str]
    """What private runs ask: by this, audits know which attacks fit the messages."""

    aggregator: str | Aggregate = field(default="mean", kw_only=True)
    quorum: float = field(default=1.0, kw_only=True)
    deadline: float | None = field(default=None, kw_only=True)
    privacy: Privacy | None = field(default=None, kw_only=True)
    message_format: str = field(default=PLAIN, kw_only=True)
    device: str = field(default="cpu", kw_only=True)
    seed: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        require_count("seed", self.seed, "Any whole number from 0 on.", at_least=0)
        require_number("quorum", self.quorum, 0, np.nextafter(1, 2), "0 < quorum <= 1", "1 waits for everybody.")
        if self.deadline is not None:
            require_number("deadline", self.deadline, 0, np.inf, "a finite number of seconds > 0", "None has no limit.")
        if self.privacy is not None and not isinstance(self.privacy, Privacy):
            raise ConfigurationError(f"privacy = {self.privacy!r}", "a Privacy, or None", "Pass Privacy(...).")
        require_format(self.message_format, self.privacy is not None)
        self.rule  # noqa: B018 - it is checked when it is looked up

    @property
    def rule(self) -> Rule:
        """The aggregation rule that `aggregator` means."""
        return rule_of(self.aggregator)

    def get_params(self, deep: bool = False) -> dict[str, Any]:
        """All knobs as they were given: for scikit-learn's `clone` and searches.

        A method is frozen; `dataclasses.replace` makes another.  `deep` changes nothing: no knob is an estimator.
        """
        return {item.name: getattr(self, item.name) for item in fields(self)}

    def settings(self) -> dict[str, Any]:
        """All knobs as JSON, for cards and checkpoints; "rounds" and "privacy" are among them."""
        own = {
            name: value.record() if isinstance(value, Generator) else value for name, value in self.get_params().items()
        }
        privacy = None if self.privacy is None else asdict(self.privacy)
        return own | {"aggregator": str(self.rule), "privacy": privacy}

    def identity(self) -> dict[str, Any]:
        """The settings that must be the same for a checkpoint to go on; how long to wait for whom is free."""
        return {name: value for name, value in self.settings().items() if name not in ("quorum", "deadline")}

    def require_rule(self, asked: int) -> None:
        """Refuse so few clients a round, or so small a quorum of them, that the rule would be another one.

        Raises:
            ConfigurationError: there are too few.
        """
        self.rule.require(quorum_of(self.quorum, asked))

    @abstractmethod
    def schedule(self, client_ids: Sequence[str]) -> list[list[str]]:
        """Who is asked in each round: fixed beforehand, so that T_max is known.

        Raises:
            ConfigurationError: the method cannot work with so few clients.
        """

    def drawn(self, client_ids: Sequence[str], rounds: int, participation: float) -> list[list[str]]:
        """A `schedule` that asks a share of the clients each round, drawn beforehand from the public seed.

        Raises:
            ConfigurationError: so small a share asks nobody, or too few for the rule.
        """
        size = round(participation * len(client_ids))
        if size < 1:
            raise ConfigurationError(
                f"participation = {participation} of {len(client_ids)} clients",
                f"at least {1 / len(client_ids):.3g}, so that a round asks somebody",
                "Ask a larger share.",
            )
        self.require_rule(size)
        rng = self.public_rng("participation")
        return [[client_ids[i] for i in sorted(rng.permutation(len(client_ids))[:size])] for _ in range(rounds)]

    def plan(self, client_ids: Sequence[str]) -> PrivacyPlan | None:
        """The mechanism's constants for the client that is asked most often; None without privacy.

        Raises:
            ConfigurationError: as `schedule`, or the target epsilon cannot be reached.
        """
        asked = [client_id for round_ in self.schedule(client_ids) for client_id in round_]
        if self.privacy is None:
            return None
        return self.privacy.plan(max(map(asked.count, set(asked))), self.events_per_query)

    @property
    def events_per_query(self) -> int:
        """Measurements that an answer takes: its question's, where that says one number for all queries."""
        return int(PRIVATE_QUESTIONS[self.question].events)

    @classmethod
    def asked(cls, settings: Mapping[str, Any]) -> str:
        """The question that runs of these settings ask, for audits: `question`, unless a knob decides."""
        return cls.question

    @abstractmethod
    def check(self, info: DatasetInfo) -> None:
        """Refuse public constants that the method cannot work with, or that clients would refuse.

        Raises:
            ConfigurationError, ModelError, QueryRefusedError: it cannot.
        """

    @abstractmethod
    def layout(self, run: Run, client_ids: Sequence[str]) -> Layout:
        """What the checkpoints of this run look like."""

    @abstractmethod
    def course(self, started: Started) -> Course:
        """One run, at its beginning."""

    @property
    @abstractmethod
    def steered(self) -> str:
        """What the seed steers, in words, for the card."""

    def fit(
        self,
        clients: Sequence[Client] | Engine,
        *,
        info: DatasetInfo | None = None,
        progress: bool = False,
        on_round_end: Callable[[RoundRecord], None] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
        output: str | os.PathLike[str] | None = None,
    ) -> Release:
        """Run the federation and return the release.

        Ctrl-C ends the run cleanly: `Interrupted` brings a release with S as it is and the true bill.  With a
        checkpoint the run can go on from the last whole round, after Ctrl-C as after a crash.

        Args:
            clients: the data owners, or an engine that reaches them.
            info: public class list, shape and normalisation; needed where the clients' data sets carry none.
            progress: show a bar with what is done, the matching loss, epsilon so far and time left.
            on_round_end: called after each round (by methods that match S after the rounds once, when S is done) with
                public values only.  An exception from it ends the run without a release, and what was paid stays paid;
                with a checkpoint the run can go on.
            checkpoint: a folder that keeps the state after every round; the clients' ledgers, which must outlive the
                process too (`Ledger(path)`), are their own.
            resume: go on with the run whose checkpoint lies there, with the same settings and clients; a run that had
                ended gives its release again.
            output: a new folder, in which the release is saved when it is made, after Ctrl-C too.  Without it, one that
                Ctrl-C ended is saved in the checkpoint's folder, as "interrupted-001", if there is a checkpoint.

        Returns:
            the release; `release.dataset` is S.

        Raises:
            ConfigurationError: too few clients for the schedule or the aggregator, no info, knobs that do not fit the
                data, or an epsilon that cannot be reached.
            QueryRefusedError: no client agrees to the run, or none answers where nothing can be made without.
            ModelError: the network is not registered, breaks an assumption of the theorem, or cannot serve.
            DataError: a client's data does not fit the `info` given.
            ReleaseError: `output` exists, and nothing is spent; or it cannot be written.
            Interrupted: Ctrl-C after the clients had agreed to the run; `.release` holds what was paid for.
            CheckpointError: the folder holds a checkpoint already, or, to resume, none, a damaged one, one of another
                run, or one whose messages the clients' ledgers do not know.  Nothing is spent.  Or it cannot be
                written; the round before is then still whole.

        Formal guarantee: killed at any instant, any number of times, and resumed each time, the run uses no message
        twice and no client sends two messages for a round.  For (1) the run is written down before any client is asked
        to agree to it, so that all its processes share one run_id, one pin in each ledger and one T_max.  (2) The
        checkpoint after round t - 1 holds an S that has used every message of the rounds before t once and none of
        round t; what a killed process did in round t is gone with it.  (3) The queries of round t follow from that
        checkpoint and public seeds, so every process asks them with the same bytes.  (4) So a client whose message of
        round t is sealed sends the stored bytes, free of charge; any other is charged now, also one that was charged
        before and had not sealed: that its computation did not end may depend on its data.  The checkpoint is durable
        before round t + 1 is asked, so the one message that a client stores is the one that can still be wanted.

        Three damages cost a charge more, never a release less on the bill: a computation that did not end, a torn
        ledger line, and a lost store of a sealed message.  Charges past T_max are refused in any case, so such a client
        leaves before the last round; clients trust their ledgers, not the checkpoint.
        """
        if on_round_end is not None and not callable(on_round_end):
            raise ConfigurationError(f"on_round_end = {on_round_end!r}", "a function of one RoundRecord", "Pass one.")
        folder = None if output is None else require_new(output)
        checkpoint = None if checkpoint is None else require_path("checkpoint", checkpoint)
        engine, info = engine_of(clients, info)
        plan = self.plan(engine.client_ids)
        started = start_run(
            engine,
            info,
            method=self.name,
            settings=self.identity(),
            plan=plan,
            message_format=self.message_format,
            check=self._check,
            layout=self.layout,
            quorum=self.quorum,
            deadline=self.deadline,
            checkpoint=checkpoint,
            resume=resume,
        )
        return run(
            self.course(started),
            method=self.name,
            settings=self.settings(),
            seeds=(
                f"public seed {self.seed}: {self.steered}; "
                "noise and coins: each client's operating system, not reproducible"
            ),
            progress=progress,
            on_round_end=on_round_end,
            output=folder,
        )

    def _check(self, info: DatasetInfo) -> None:
        require_device(self.device)
        self.check(info)

    def public_rng(self, *purpose: str | int) -> np.random.Generator:
        """A public generator for one purpose: no state is carried from round to round."""
        return np.random.default_rng([self.seed, *"/".join(map(str, purpose)).encode()])

    def public_seed(self, *purpose: str | int) -> int:
        """A public seed for one purpose."""
        return int(self.public_rng(*purpose).integers(2**62))
