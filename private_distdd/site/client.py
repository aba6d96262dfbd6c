"""A data owner: holds the images and the ledger, and answers queries with messages of the mechanism, nothing else."""

from __future__ import annotations

import datetime
import logging
import threading
from collections.abc import Callable
from types import NoneType
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import Dataset

from private_distdd.data.dataset import carried_info, check_labels, materialise
from private_distdd.data.info import DatasetInfo
from private_distdd.encoding import sha256
from private_distdd.errors import (
    BudgetExceededError,
    ComputationError,
    ConfigurationError,
    ConsentPendingError,
    DataError,
    NotEnrolledError,
    QueryRefusedError,
)
from private_distdd.limits import ComputeLimits
from private_distdd.networks.device import require_device
from private_distdd.networks.micro_batch import MICRO_BATCH
from private_distdd.privacy.events import Event, NotPrivate
from private_distdd.privacy.ledger import Ledger, parse
from private_distdd.privacy.ledger.file import OUTBOX
from private_distdd.privacy.mechanism import SampledGaussianMechanism
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.privacy.randomness import Randomness, SystemRandomness
from private_distdd.questions.question import Measurable, OnOutputs, PlainQuestion, Question
from private_distdd.questions.register import plain_question, private_question
from private_distdd.release.bill import claim_of, delta_of, pin_of
from private_distdd.site.company import Answering, Examples, alone
from private_distdd.site.draws import check_class_batch, class_batch
from private_distdd.site.kept import KeptOutputs
from private_distdd.site.key import SiteKey
from private_distdd.site.outbox import Outbox
from private_distdd.site.share import Share
from private_distdd.validate import require_count, require_identifier, require_kind
from private_distdd.wire.attestation import Attestation, Signed
from private_distdd.wire.message import Message
from private_distdd.wire.query import Query
from private_distdd.wire.run import Enrolment, Run


class Client:
    """One data owner.

    The data set is read and checked once, here; it then stays in memory (4 bytes a pixel) and is never sent.  Networks
    that begin with fixed public features (`scatter_linear`) have these computed once, where a run's plan takes each
    example more than once on average: those of the network asked for last stay in memory, too, and take n x d x 4 bytes
    for n examples of d features (up to 5.1 times the images).

    Args:
        client_id: `[A-Za-z0-9_-]{1,64}`.
        dataset: map-style data set of (normalised float image [C, H, W], int label).  May be empty, may lack classes.
        ledger: the data's own, lifetime record of what was released; in memory when left out.  With a budget, queries
            without privacy are refused whatever `allow_without_privacy` says.
        info: public class list, image shape and normalisation; by default what the data set carries as `.info` (wrap a
            plain torch data set with `from_torch`).  Without any, all runs are refused.
        plan: the only mechanism constants the owner accepts, for example `privacy.plan(max_queries=100)`; by default
            those of the run it is enrolled in.  A client that a server reaches unattended needs this or a budget.
        max_runs: how many runs of `plan` the owner accepts, >= 1, counted in the ledger and so for its lifetime.
        allow_without_privacy: answer runs without privacy, with exact statistics and even with images.  None is a
            refusal, too, but may be overruled where the clients are simulated in one process: `fit` does, and warns.
        limits: what one query may cost this client in memory and work, by public arithmetic on the query.
        device: where its gradients are computed, for example "cuda".
        key: what the owner signs the ledger with at the end of a run, a `SiteKey` that lasts; by default one of this
            process's own, which is marked as a throw-away.
        consent: asked for every run that is acceptable otherwise, a `Consents` for example; False lets it wait.
        randomness: for audits and tests: another source of noise and coins.  Unless it is the operating system's, all
            releases are charged as not private (epsilon infinite).

    Raises:
        QueryRefusedError: client_id is malformed.
        ConfigurationError: the ledger is another client's, torch has no such device, or an argument is out of range.
        DataError: labels, shapes or pixels are not what they must be.

    Formal guarantee: see docs/theorem.md.  Everything `answer` returns under a plan is the mechanism's release, charged
    to the ledger before it is computed; the guarantee is over data sets that passed the checks made here.
    """

    def __init__(
        self,
        client_id: str,
        dataset: Dataset[Any],
        ledger: Ledger | None = None,
        *,
        info: DatasetInfo | None = None,
        plan: PrivacyPlan | None = None,
        max_runs: int = 1,
        allow_without_privacy: bool | None = None,
        limits: ComputeLimits | None = None,
        device: str = "cpu",
        key: SiteKey | None = None,
        consent: Callable[[Run], bool] | None = None,
        randomness: Randomness | None = None,
    ) -> None:
        self.client_id = require_identifier("client_id", client_id)
        require_kind("ledger", ledger, (Ledger, NoneType), "a Ledger, or None", "Open the file: Ledger(path).")
        self.ledger = Ledger(None) if ledger is None else ledger
        if self.ledger.client_id not in (None, client_id):
            raise ConfigurationError(
                f"the ledger of client {self.ledger.client_id!r} for client {client_id!r}",
                "the client's own ledger",
                "A ledger belongs to its data: open the right file.",
            )
        self.info = info or carried_info(dataset)
        require_device(device)
        images, labels = materialise(dataset, None if self.info is None else self.info.shape)
        self._images, self._labels = images.to(device), labels.to(device)
        self._kept = KeptOutputs()
        if self.info is not None:
            self.describe(self.info)
        self._device = device
        self._plan = plan
        self._max_runs = require_count("max_runs", max_runs, "Accept at least one run of the plan.")
        self.allow_without_privacy = allow_without_privacy
        self._limits = ComputeLimits() if limits is None else limits
        self._randomness = SystemRandomness() if randomness is None else randomness
        self.key = SiteKey.for_this_process() if key is None else key
        self._consent = consent
        self._runs: dict[str, Run] = {}
        self._allowed_runs: set[str] = set()
        self._open()

    def _open(self) -> None:
        """What is this process's own."""
        path = self.ledger.path
        self._outbox = Outbox(None if path is None else path.with_name(f"{path.name}{OUTBOX}"))
        self._log = logging.getLogger(f"private_distdd_client.{self.client_id}")
        self._busy = threading.Lock()  # one query after another: a repeated one finds the first one's answer

    def __getstate__(self) -> dict[str, Any]:
        """For a process that goes on with this client, whose ledger must be a file and closed here.

        The examples travel, so the way is the owner's.  A throw-away key does not: the other process makes its own.

        Raises:
            ConfigurationError: it has a key that lasts, which stays where its owner put it.
        """
        if not self.key.throwaway:
            raise ConfigurationError(
                "a copy of a client with a key that lasts",
                "a client with a throw-away key",
                "Build it where it is to answer: Client(..., key=SiteKey.load(path)).",
            )
        own = ("_outbox", "_log", "_busy", "_kept", "key")
        return {name: value for name, value in vars(self).items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._kept, self.key = KeptOutputs(), SiteKey.for_this_process()
        self._open()

    def __repr__(self) -> str:
        return f"Client({self.client_id!r})"  # no sizes: they are private

    def describe(self, info: DatasetInfo) -> None:
        """The owner states the public constants of a data set that carries none; without them no run is agreed to.

        Raises:
            DataError: the data does not have these classes, or this image shape.
        """
        check_labels(self._labels, info.num_classes)
        if len(self._labels) and tuple(self._images.shape[1:]) != info.shape:
            raise DataError(
                f"images of shape {tuple(self._images.shape[1:])}", f"{info.shape}", "Bring them to one shape."
            )
        self.info = info

    def relabelled(self, change: Callable[[Tensor], Tensor]) -> Client:
        """For simulations: this client with other labels, int64 [n] -> int64 [n], and the same ledger."""
        changed = object.__new__(type(self))
        vars(changed).update(vars(self))
        changed._labels = change(self._labels.cpu()).to(self._device)
        changed._runs, changed._allowed_runs = {}, set()
        return changed

    def enroll(self, run: Run) -> Enrolment:
        """Agree to a run: pin its constants, and check once that the budget can pay all T_max queries.

        The answer depends on public values and the ledger, never on the data: a refusal must not tell anything.
        Enrolling again with the same run is allowed (a resumed run); with other values under the same run_id it is not.

        Raises:
            QueryRefusedError: info or plan differ from the owner's, or from what was pinned under this run_id; the run
                is one too many of the owner's plan; or it is without privacy, and the owner did not allow that.
            BudgetExceededError: the budget cannot pay the schedule, or has no room for a run without privacy.
            ConsentPendingError: the owner has not agreed to this run yet.
        """
        known = self._runs.get(run.run_id)
        if known is not None and known != run:
            raise QueryRefusedError(
                f"run {run.run_id!r} with other values than pinned", "the values agreed to first", "Use a new run_id."
            )
        if self._plan is not None and run.plan != self._plan:
            raise QueryRefusedError(f"plan {run.plan}", f"the owner's {self._plan}", "Ask with the owner's values.")
        if run.plan is None:
            self._refuse_without_privacy(run.run_id)
        if run.info != self.info:
            raise QueryRefusedError(
                f"a run on {run.info}",
                f"the owner's {self.info}",
                "Give the client the run's public constants: Client(..., info=), or a data set that carries them.",
            )
        if self._consent is not None and not self._consent(run):
            raise ConsentPendingError(
                f"run {run.run_id!r}", "runs that the owner agreed to", "Offer it again when the owner has approved it."
            )
        if run.plan is not None:
            # The owner's plan says what one run costs, and `max_runs` how often: else a hundred runs cost a hundred.
            most = None if self._plan is None else self._max_runs
            self.ledger.pin(run.run_id, self._event(run.plan), run.plan.max_queries, run.terms_digest, max_runs=most)
            if run.plan.delta * len(self._labels) > 1:
                self._log.warning("delta = %g is above 1 / examples held: choose a smaller one", run.plan.delta)
        self._runs[run.run_id] = run
        return Enrolment(self.client_id, self.key.public_key)

    def attest(self, run: Run) -> tuple[Signed, bytes]:
        """What the owner's key signs of this run, and the ledger that it is about, as the ledger stands now.

        All of it is read in the client's own ledger, but for the run's name and terms, which must be those that were
        agreed to, and the day.  It looks at no example and costs nothing.

        Raises:
            NotEnrolledError: the client never agreed to exactly this run, or, where it is without privacy and leaves no
                trace of that in the ledger, was started anew since.
        """
        data = self.ledger.to_bytes()  # one moment: others may write meanwhile
        history = parse(data)
        pin = pin_of(history, run.run_id)
        agreed = self._runs.get(run.run_id) == run if pin is None else pin.terms == run.terms_digest
        if not agreed:
            raise NotEnrolledError(f"run {run.run_id!r}", "a run, and its terms, that this client agreed to", "Enroll.")
        attestation = Attestation(
            client_id=self.client_id,
            run_id=run.run_id,
            terms=run.terms_digest,
            ledger_lines=len(history),
            ledger_head=history.head,
            epsilon=claim_of(history, run)["epsilon"],
            delta=delta_of(run),
            day=datetime.datetime.now(datetime.UTC).date().isoformat(),
            throwaway=self.key.throwaway,
        )
        return self.key.sign(attestation), data

    def answer(self, query: Query) -> Message:
        """One message for one query; the ledger is charged before the message is computed.

        The same query asked again after a lost reply gets the same stored bytes, and costs nothing more.  Asked again
        after a computation that did not end, for whatever reason, it costs a new charge: that it did not end may depend
        on the data, and must not be seen again and again for one price.

        Raises:
            NotEnrolledError: not enrolled.  Nothing is spent.
            QueryRefusedError: other values than pinned, past T_max, malformed, beyond the owner's limits, of a round
                before the newest, or another query under the round answered last.  Nothing is spent.
            BudgetExceededError: the budget cannot pay.  Nothing is spent.
            ModelError, ConfigurationError: the query's network breaks an assumption of the theorem, or an argument is
                out of range.  Nothing is spent.
            ComputationError: the computation failed, or its result could not be stored.  The charge is used up.
            LedgerError: the ledger cannot be written.
        """
        return alone(self.answering(query))

    def answering(self, query: Query, question_of: AskedFor = private_question) -> Answering[Message]:
        """The same, for rows that are computed elsewhere: see `site.company`.

        Args:
            query: see `answer`.
            question_of: from the arguments of `private_question` to what it returns; where clients in one process are
                asked the same, they may share it.
        """
        with self._busy:
            return (yield from self._answered(query, question_of))

    def _answered(self, query: Query, question_of: AskedFor) -> Answering[Message]:
        run = self._runs.get(query.run_id)
        if run is None:
            raise NotEnrolledError(f"run {query.run_id!r}", "a run this client is enrolled in", "Enroll first.")
        if query.plan != run.plan:
            raise QueryRefusedError(
                f"plan {query.plan}", f"the pinned {run.plan}", "Ask with the values that the client agreed to."
            )
        self._refuse_old_round(query, run)
        stored = self._stored(query)
        if stored is not None:
            return stored
        event: Event = NotPrivate() if run.plan is None else self._event(run.plan)
        if run.plan is None:
            self._refuse_without_privacy(run.run_id)
            check_class_batch(query.batch, run.info)
        self.ledger.require(event, query.message_id)  # before work for a query that could not be paid
        asked = query.question, query.arguments, query.tensors, run.info, self._device, self._limits
        if run.plan is None:
            plain = plain_question(*asked)
        else:
            question = question_of(*asked)
            if question.events != run.plan.events_per_query:
                raise QueryRefusedError(
                    f"{query.question!r}, which takes {question.events} measurements",
                    f"a question of {run.plan.events_per_query}, as the run's plan says",
                    "Plan with Privacy.plan(max_queries, events_per_query).",
                )
        self.ledger.charge(event, query.message_id)
        try:
            if run.plan is None:
                message = self._plain(query, plain)
            else:
                message = yield from self._private(query, question, run.plan)
            self._outbox.put(query.message_id, message.data)
        except Exception as error:  # whatever it was, and whether it comes again, may depend on the data
            raise ComputationError(
                f"the answer to {query.message_id!r} failed after it was charged",
                "a computation that ends, and a disk with room",
                "See the cause in this client's own log; a new try is a new charge.",
            ) from error
        self.ledger.seal(query.message_id, sha256(message.data))
        return message

    def _event(self, plan: PrivacyPlan) -> Event:
        # The type, not a promise: only the operating system's randomness is charged as private.
        return plan.event if type(self._randomness) is SystemRandomness else NotPrivate()

    def _refuse_old_round(self, query: Query, run: Run) -> None:
        """With privacy rounds go one way: an old query that turns up again buys no other message of its round."""
        newest = self.ledger.newest_round(run.run_id)
        if run.plan is not None and query.server_round < newest:
            raise QueryRefusedError(
                f"a query of round {query.server_round} after one of round {newest}",
                "rounds in their order, the newest one again",
                "Ask in the next round.",
            )

    def allow_run_without_privacy(self, run_id: str) -> None:
        """For simulations: answer this one run without privacy, unless `allow_without_privacy` is False."""
        self._allowed_runs.add(run_id)

    def _refuse_without_privacy(self, run_id: str) -> None:
        if self.ledger.budget is not None:
            raise BudgetExceededError(
                "a query without privacy", f"queries with privacy, within {self.ledger.budget}", "Set privacy=."
            )
        simulated = self.allow_without_privacy is None and run_id in self._allowed_runs
        if not (self.allow_without_privacy or simulated):
            raise QueryRefusedError(
                "a run or query without privacy",
                "what the client's owner allowed: runs with privacy",
                "Set privacy=; only the owner can allow more, with Client(allow_without_privacy=True).",
            )

    def _stored(self, query: Query) -> Message | None:
        if self.ledger.status(query.message_id) != "sealed":
            return None
        data = self._outbox.get(query.message_id)
        if data is None or sha256(data) != self.ledger.digest(query.message_id):
            return None  # lost: answering afresh is a new charge
        message = Message.from_bytes(data)
        if message.query_digest != query.digest:
            raise QueryRefusedError(
                f"a second, different query for {query.message_id!r}", "one query a round", "Ask in the next round."
            )
        return message

    def _private(self, query: Query, question: Question, plan: PrivacyPlan) -> Answering[Message]:
        left = plan.events_per_query  # that were charged
        answer, share = question.answer(), Share(self._log, query.server_round, left)
        try:
            measured = next(answer)
            while left:
                left -= 1
                measured = answer.send((yield from self._measured(measured, plan, share)))
                share.measured()
        except StopIteration as end:
            packing = self._runs[query.run_id].packing
            return Message(self.client_id, query.message_id, query.digest, end.value, packing=packing)
        raise QueryRefusedError("a measurement that was not charged", "those of the plan", "Mend the question.")

    def _measured(self, measured: Measurable, plan: PrivacyPlan, share: Share) -> Answering[Tensor]:
        """One measurement: coins, rows, clipping, sums and noise."""
        groups, dimension = measured.num_groups, measured.dimension
        measurement = _mechanism(plan).begin(len(self._labels), groups, dimension, self._randomness)
        source = self._images
        if isinstance(measured, OnOutputs):
            taken = plan.sample_rate * plan.max_queries * plan.events_per_query  # how often an example is, on average
            if taken > 1:
                source = self._kept.of(source, measured.fixed, share.features)
            else:
                measured = measured.question
        parts = torch.split(torch.from_numpy(measurement.batch), MICRO_BATCH)
        for number, part in enumerate(parts, 1):
            examples = self._examples(measured, source, part.to(self._device))
            measurement.add((yield examples), measured.groups(examples.labels[: examples.size]))
            del examples  # before the next are made: two micro-batches take the memory of one
            share.at(number, len(parts))
        return measurement.message()

    def _examples(self, measured: Measurable, source: Tensor, part: Tensor) -> Examples:
        """At most 64 of its examples, int64 [m], in buffers of one size: memory must not tell how many they are.

        They come from the source: its images, or what a fixed map made of them.
        Written where they are wanted: a copy of their own, however short its life, would have the size of m images.
        """
        count = len(part)
        images, labels = (held.new_zeros((MICRO_BATCH, *held.shape[1:])) for held in (source, self._labels))
        torch.index_select(source, 0, part, out=images[:count])
        torch.index_select(self._labels, 0, part, out=labels[:count])
        return Examples(measured, images, labels, count)

    def _plain(self, query: Query, question: PlainQuestion) -> Message:
        index = class_batch(query.batch, self._labels, self.client_id)
        values, counts = question.plain(self._images[index], self._labels[index])
        if not bool(torch.isfinite(values).all()):  # weights that overflow: nobody could read the message
            raise QueryRefusedError("an answer of NaN or infinite values", "finite sums", "Ask with other weights.")
        return Message(self.client_id, query.message_id, query.digest, values, counts)


AskedFor: TypeAlias = Callable[..., Question]
"""As `private_question`."""


def _mechanism(plan: PrivacyPlan) -> SampledGaussianMechanism:
    """What the plan stands for; `plan.event` is `events_per_query` times its event."""
    return SampledGaussianMechanism(plan.noise_multiplier, plan.sample_rate, plan.max_grad_norm, plan.divisor)
