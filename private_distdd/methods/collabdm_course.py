"""One run of CollabDM: its queries, and the steps on S that match what came."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from private_distdd.matching.means import class_means, match_means
from private_distdd.methods.parametrisation import recorded
from private_distdd.methods.refinement import trained_states
from private_distdd.methods.teacher import Teacher, softened, trained_network
from private_distdd.methods.without_privacy import allocate, class_counts, in_class_order
from private_distdd.networks.embedding import Embedding
from private_distdd.networks.trained import TrainedNetwork
from private_distdd.questions.arguments import weights_of
from private_distdd.questions.class_embeddings import ClassEmbeddings, read
from private_distdd.server.loop import Course, Kept, named, nobody_answered, unnamed
from private_distdd.server.reading import Wanted
from private_distdd.server.start import Started
from private_distdd.synthetic.dataset import SyntheticDataset, presentable
from private_distdd.synthetic.latents import Latents
from private_distdd.wire.message import Message, stack
from private_distdd.wire.query import Query

if TYPE_CHECKING:  # it is its course
    from private_distdd.methods.collabdm import CollabDM, Phase

MEANS: tuple[Phase, ...] = ("embedding", "refinement")  # whose messages are means to be matched


class CollabDMCourse(Course):
    """One run: means of embeddings, steps of the teacher, means by networks trained on a first S; and the steps on S.

    Args:
        method: the knobs.
        started: the run, as clients agreed to it.
    """

    unit: ClassVar[str] = "step"
    uses_part_of_a_round: ClassVar[bool] = True

    def __init__(self, method: CollabDM, started: Started) -> None:
        super().__init__(started, method.rounds)
        self.method = method
        self.parts = method.parts(self.info)
        self.labels = torch.arange(self.info.num_classes).repeat_interleave(method.ipc)
        self.generator = method.generator(self.info)
        self.start = self._noise()  # of S's pixels, where there is no generator
        self.targets: dict[Phase, list[Tensor]] = {phase: [] for phase in MEANS}  # aggregated messages, one a round
        self.taught = self._teacher() if method.teacher_rounds else None
        self.first: Tensor | None = None  # the first S
        self.latents = self._begin()  # what is released if nothing more comes
        self.states: list[dict[str, Tensor]] = []  # of the networks that it trained

    @property
    def planned(self) -> int:
        """Steps on S."""
        return self.method.matching_steps * self.method.matchings

    def wanted(self, t: int) -> Mapping[str, Wanted]:
        """The round's networks, or the teacher's weights, to everybody."""
        phase, k = self.method.phase(t)
        if phase == "teacher":
            assert self.taught is not None  # noqa: S101 - for the type checker: there are such rounds
            taught = self.taught
            return self._everybody(t, taught.question, taught.arguments, taught.state, (1, taught.dimension))
        spec = self.method.asked_in(phase, k, self.info)
        weights = weights_of(self._states_of(k)) if phase == "refinement" else {}
        shape = (self.info.num_classes, spec.dimension)
        return self._everybody(t, self.method.question, spec.to_json(), weights, shape)

    def step(self, t: int, messages: Sequence[Message]) -> float:
        """Keep what S will be matched with, or move the teacher; after the teacher's last round, make a first S."""
        method, (phase, k) = self.method, self.method.phase(t)
        if phase == "teacher" and self.taught is not None:
            if messages:
                sums, counts = stack(messages)
                self.taught.step(method.rule(sums, counts)[0] / self._examples(counts))
        elif messages:
            sums, counts = stack(messages)
            self.targets[phase].append(method.rule(self._of_holders(sums), counts))
        elif t and not self.interrupted:
            dimension = method.asked_in(phase, k, self.info).dimension
            self.targets[phase].append(torch.zeros(self.info.num_classes, dimension))
        elif not self.interrupted:
            raise nobody_answered()
        if t == 0 and method.local_steps and not self.interrupted:
            self.start = self._distilled()
        if t + 1 == method.rounds - method.refinement_rounds < method.rounds and not self.interrupted:
            self._first()
        return math.nan

    def finish(self) -> None:
        """The steps on S."""
        self._match()

    def keep(self) -> Kept:
        """See `Course`."""
        state = {"start": self.start}
        for phase, targets in self.targets.items():
            state |= {phase: torch.cat(targets, dim=1)} if targets else {}
        if self.taught is not None:
            state |= self.taught.keep()
        if self.first is not None:
            state |= {"first": self.first, **named("networks", weights_of(self.states))}
        return Kept({"rounds": self.rounds_done}, state, {})

    def restore(self, kept: Kept) -> None:
        """See `Course`."""
        method, state = self.method, kept.state
        self.rounds_begun = self.rounds_done = kept.progress["rounds"]
        self.start = state["start"]
        for phase, targets in self.targets.items():
            if phase in state:
                length = method.asked_in(phase, 0, self.info).dimension
                targets.extend(torch.split(state[phase], length, dim=1))
        if self.taught is not None:
            self.taught.restore(state)
        if "first" in state:
            self.first = state["first"]
            self.steps_done = method.matching_steps
            weights = unnamed("networks", state)
            self.states = [unnamed(str(k), weights) for k in range(method.networks)]
            self.latents = Latents(None, self.info, self.first.to(method.device, copy=True))  # whatever made it
        else:
            self.latents = self._begin()

    def teacher(self) -> TrainedNetwork | None:
        """See `Course`."""
        taught = self.taught
        return trained_network(taught.spec, taught.network, self.info) if taught is not None and taught.moved else None

    @property
    def chosen(self) -> Mapping[str, Any]:
        """The partition, and the generator with what its weights have seen."""
        return {"partition": self.parts, "parametrisation": recorded(self.generator, self.info)}

    def dataset(self) -> SyntheticDataset:
        """S, with the teacher's soft labels where it has been taught."""
        with torch.no_grad():
            images = presentable(self.latents.examples())
        dataset = SyntheticDataset(images, self.labels, self.info, self.parts)
        return softened(dataset, self.taught.network) if self.taught is not None and self.taught.moved else dataset

    def _teacher(self) -> Teacher:
        method = self.method
        return Teacher(
            method.teacher_spec,
            self.info,
            method.public_seed("teacher"),
            rate=method.teacher_rate,
            momentum=method.teacher_momentum,
            device=method.device,
        )

    def _everybody(
        self,
        t: int,
        question: str,
        arguments: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        shape: tuple[int, int],
    ) -> Mapping[str, Wanted]:
        run = self.session.run
        wanted = Wanted(Query(run.run_id, t, question, arguments, tensors, run.plan), shape, as_measured=True)
        return dict.fromkeys(self.session.active, wanted)

    def _examples(self, counts: Tensor | None) -> float:
        """What the rule makes of the number of examples: what it makes of their gradients is divided by this.

        Args:
            counts: int64 [clients, 1], without privacy; with it, None: then the noisy means have counted them.
        """
        plan = self.session.run.plan
        if counts is not None:
            found, least = self.method.rule(counts[:, :, None].to(torch.float32), counts), 1.0
        else:
            assert plan is not None  # noqa: S101 - for the type checker: messages without privacy have counts
            targets = self.targets["embedding"]
            found = torch.stack([read(targets[k], 1)[1].sum() for k in self._told("embedding")])
            least = 1 / plan.divisor
        return max(least, float(found.mean()))

    def _of_holders(self, sums: Tensor) -> Tensor:
        """The clients' sums, float [clients, classes, dimension], without what noise alone may have said of a class."""
        plan = self.session.run.plan
        if plan is None or not self.method.holders:
            return sums
        noise = plan.noise_multiplier * plan.max_grad_norm / plan.divisor  # of each coordinate; the last one counts
        return sums * (sums[:, :, -1:] >= self.method.holders * noise)

    def _told(self, phase: Phase) -> list[int]:
        """Which rounds of a phase told something: zeros stand for one that nobody answered, but never the first."""
        return [k for k, target in enumerate(self.targets[phase]) if (phase, k) == (MEANS[0], 0) or bool(target.any())]

    def _states_of(self, k: int) -> list[dict[str, Tensor]]:
        """Of the networks of the k-th round of refinement."""
        return self.states[k :: self.method.refinement_rounds]

    def _first(self) -> None:
        """A first S, and the networks that it trains, which see the data as no random network does."""
        method = self.method
        self._match()
        dataset = self.dataset()
        self.first = dataset.images
        self.say("networks learn from the first S")
        self.states = trained_states(
            method.embedding(self.info, "refinement"),
            dataset,
            epochs=method.network_epochs,
            seed=method.public_seed("training"),
            device=method.device,
        )

    def _begin(self) -> Latents:
        """Where the steps on S begin: at the first S, if there is one, but for a generator, which begins anew."""
        method, device = self.method, self.method.device
        if self.generator is None:
            start = self.start if self.first is None else self.first
            return Latents(None, self.info, start.to(device, copy=True))
        return Latents.drawn(self.generator, self.info, len(self.labels), method.public_rng("latents"), device)

    def _noise(self) -> Tensor:
        shape = (len(self.labels), *self.info.shape)
        return torch.from_numpy(self.method.public_rng("images").standard_normal(shape, dtype=np.float32))

    def _distilled(self) -> Tensor:
        """Without privacy: what the clients distilled from their own data, in its classes' places."""
        method, run, last = self.method, self.session.run, self.method.rounds
        shares = allocate(
            class_counts(self.session, last), self.session.active, method.ipc, method.public_rng("allocation")
        )
        arguments = {
            "embedding": method.embedding(self.info).to_json(),
            "partition": self.parts,
            "steps": method.local_steps,
            "rate": method.matching_rate,
            "smoothness": method.smoothness,
            "seed": method.public_seed("local"),
        }
        answers = self.session.ask(
            {
                name: Wanted(
                    Query(
                        run.run_id,
                        method.rounds + 1,
                        "class_distillations",
                        {**arguments, "counts": list(share)},
                        {},
                        None,
                    ),
                    (sum(share), math.prod(self.info.shape)),
                )
                for name, share in shares.items()
            },
            quorum=1.0,
        )
        if answers.interrupted:
            raise KeyboardInterrupt
        return in_class_order(self._noise(), answers.messages, shares, self.info)

    def _match(self) -> None:
        """The steps on S towards everything that came: one `matching_steps` of them."""
        method = self.method
        networks: list[Embedding] = []
        means: list[Tensor] = []
        for phase, targets in self.targets.items():
            for k in self._told(phase):
                spec = method.asked_in(phase, k, self.info)
                states = self._states_of(k) if phase == "refinement" else None
                networks += ClassEmbeddings(spec, self.info, method.device, states).networks
                means.append(class_means(*read(targets[k].to(method.device), len(spec.seeds))))
        before, self.latents = self.latents, self._begin()
        if not networks:
            return
        try:
            match_means(
                self.latents,
                self.labels.to(method.device),
                networks,
                torch.cat(means),
                self.info,
                partition=self.parts,
                steps=method.matching_steps,
                rate=method.matching_rate,
                smoothness=method.smoothness,
                rng=method.public_rng("order"),
                generator_rate=method.generator_rate,
                report=self.reporting(),
            )
        except KeyboardInterrupt:
            if self.first is not None and self.generator is not None:
                self.latents = before  # the first S, in place of one that was begun anew
            raise
