"""One run of CollabDM: its one query, and the steps on S that match what came."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from private_distdd.errors import QueryRefusedError
from private_distdd.matching.means import class_means, match_means
from private_distdd.methods.without_privacy import allocate, class_counts, in_class_order
from private_distdd.questions.class_embeddings import ClassEmbeddings
from private_distdd.server.loop import Course, Kept
from private_distdd.server.reading import Wanted
from private_distdd.server.start import Started
from private_distdd.synthetic.dataset import SyntheticDataset, presentable
from private_distdd.wire.message import Message, stack
from private_distdd.wire.query import Query

if TYPE_CHECKING:  # it is its course
    from private_distdd.methods.collabdm import CollabDM

_SHOWN = 50  # steps between two lines of progress, which shows their mean loss


class CollabDMCourse(Course):
    """One run: its one query, and the steps on S.

    Args:
        method: the knobs.
        started: the run, as clients agreed to it.
    """

    unit: ClassVar[str] = "step"
    uses_part_of_a_round: ClassVar[bool] = True

    def __init__(self, method: CollabDM, started: Started) -> None:
        super().__init__(started, 1)
        self.method = method
        self.spec, self.parts = method.embedding(self.info), method.parts(self.info)
        self.labels = torch.arange(self.info.num_classes).repeat_interleave(method.ipc)
        self.images = self.start = self._noise()  # what is released if nothing more comes
        self.targets: Tensor | None = None  # the messages as one, float32 [classes, dimension]

    @property
    def planned(self) -> int:
        """Steps on S."""
        return self.method.matching_steps

    def wanted(self, t: int) -> Mapping[str, Wanted]:
        """The seeds of the networks, to everybody."""
        run = self.session.run
        query = Query(run.run_id, t, self.method.question, self.spec.to_json(), {}, run.plan)
        return dict.fromkeys(self.session.active, Wanted(query, (self.info.num_classes, self.spec.dimension)))

    def step(self, t: int, messages: Sequence[Message]) -> float:
        """Make of the messages what S will be matched with, and what it starts from."""
        if messages:
            self.targets = self.method.rule(*stack(messages))
        elif not self.interrupted:
            raise QueryRefusedError(
                "a query that no client answers",
                "at least one client that can",
                "Each client's own log (private_distdd_client.<id>) says why it did not.",
            )
        if self.method.local_steps and not self.interrupted:
            self.start = self._distilled()
        return math.nan

    def finish(self, show: Callable[[], None]) -> None:
        """The steps on S."""
        self.images = self.start.to(self.method.device)
        if self.targets is not None:
            self._match(self.targets, show)

    def keep(self) -> Kept:
        """See `Course`."""
        return Kept({}, {"start": self.start} | ({} if self.targets is None else {"targets": self.targets}), {})

    def restore(self, kept: Kept) -> None:
        """See `Course`."""
        self.start, self.targets = kept.state["start"], kept.state["targets"]
        self.rounds_begun = self.rounds_done = 1

    @property
    def chosen(self) -> Mapping[str, Any]:
        """The partition."""
        return {"partition": self.parts}

    def dataset(self) -> SyntheticDataset:
        """See `Course`."""
        return SyntheticDataset(presentable(self.images), self.labels, self.info, self.parts)

    def _noise(self) -> Tensor:
        shape = (len(self.labels), *self.info.shape)
        return torch.from_numpy(self.method.public_rng("images").standard_normal(shape, dtype=np.float32))

    def _distilled(self) -> Tensor:
        """Without privacy: what the clients distilled from their own data, in its classes' places."""
        method, run = self.method, self.session.run
        shares = allocate(
            class_counts(self.session, 1), self.session.active, method.ipc, method.public_rng("allocation")
        )
        arguments = {
            "embedding": self.spec.to_json(),
            "partition": self.parts,
            "steps": method.local_steps,
            "rate": method.matching_rate,
            "smoothness": method.smoothness,
            "seed": method.public_seed("local"),
        }
        answers = self.session.ask(
            {
                name: Wanted(
                    Query(run.run_id, 2, "class_distillations", {**arguments, "counts": list(share)}, {}, None),
                    (sum(share), math.prod(self.info.shape)),
                )
                for name, share in shares.items()
            },
            quorum=1.0,
        )
        if answers.interrupted:
            raise KeyboardInterrupt
        return in_class_order(self._noise(), answers.messages, shares, self.info)

    def _match(self, targets: Tensor, show: Callable[[], None]) -> None:
        method = self.method
        embeddings = ClassEmbeddings(self.spec, self.info, method.device)
        losses: list[float] = []

        def report(step: int, loss: float) -> None:
            nonlocal losses
            losses = [*losses, loss][-_SHOWN:]
            self.steps_done, self.loss = step, statistics.fmean(losses)
            if step % _SHOWN == 0 or step == method.matching_steps:
                show()

        match_means(
            self.images,
            self.labels.to(method.device),
            embeddings.networks,
            class_means(*embeddings.read(targets.to(method.device))),
            self.info,
            partition=self.parts,
            steps=method.matching_steps,
            rate=method.matching_rate,
            smoothness=method.smoothness,
            rng=method.public_rng("order"),
            report=report,
        )
