"""One run of FedDGM: its queries, and the steps on S's latents towards the ways that came."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from private_distdd.matching.trajectories import DISTANCES, Way, match_ways
from private_distdd.methods.parametrisation import recorded
from private_distdd.networks.training import train
from private_distdd.questions.arguments import weights_of
from private_distdd.server.loop import Course, Kept, nobody_answered
from private_distdd.server.reading import Wanted
from private_distdd.server.start import Started
from private_distdd.synthetic.dataset import SyntheticDataset, presentable
from private_distdd.synthetic.latents import Latents
from private_distdd.wire.message import Message, stack
from private_distdd.wire.query import Query

if TYPE_CHECKING:  # it is its course
    from private_distdd.methods.feddgm import FedDGM


class FedDGMCourse(Course):
    """One run: ways of the surrogates, round by round; then the steps on S.

    Args:
        method: the knobs.
        started: the run, as clients agreed to it.
    """

    unit: ClassVar[str] = "step"
    uses_part_of_a_round: ClassVar[bool] = True

    def __init__(self, method: FedDGM, started: Started) -> None:
        super().__init__(started, method.rounds)
        self.method = method
        self.generator = method.generator(self.info)
        self.labels = torch.arange(self.info.num_classes).repeat_interleave(method.ipc)
        self.latents = self._begin()
        self.network = method.spec.build(self.info.shape, self.info.num_classes, method.seeds(0)[0])
        self.trained: list[Tensor] = []  # surrogates of the rounds from the second on, [starts, parameters], by S
        self.ways: list[Tensor] = []  # of each round [1 or clients, starts, steps told, parameters]; 0: nobody answered

    @property
    def planned(self) -> int:
        """Steps on S."""
        return self.method.matching_steps * self.method.matchings

    @property
    def _told(self) -> tuple[int, int, int]:
        """Shape of one message: surrogates, steps that it tells of each, parameters."""
        method = self.method
        parameters = sum(p.numel() for p in self.network.parameters() if p.requires_grad)
        return method.starts, 1 if method.segment is None else method.surrogate_steps, parameters

    def wanted(self, t: int) -> Mapping[str, Wanted]:
        """Seeds of fresh surrogates, or the weights of others, to everybody."""
        method, run = self.method, self.session.run
        weights = {}
        if method.surrogates != "fresh" and t:
            weights = weights_of([self._state(start) for start in self._starts(t)])
        query = Query(run.run_id, t, method.question, method.asked_in(t), weights, run.plan)
        whole = method.segment is not None  # then values are noisy sums as they were measured
        return dict.fromkeys(self.session.active, Wanted(query, (1, math.prod(self._told)), as_measured=whole))

    def step(self, t: int, messages: Sequence[Message]) -> float:
        """Keep what S will be matched with."""
        method, clients = self.method, sorted(self.started.client_ids)  # whatever order an engine names them in
        found = torch.zeros(len(clients) if method.match == "clients" else 1, math.prod(self._told))
        if messages and method.match == "clients":
            for message in messages:
                count = 1 if message.counts is None else max(1, int(message.counts))
                found[clients.index(message.client_id)] = message.values[0] / count
        elif messages:
            found = method.rule(*stack(messages))
        elif not t and not self.interrupted:
            raise nobody_answered()
        if messages or not self.interrupted:
            self.ways.append(found.reshape(-1, *self._told))
        if t + 1 < method.matchings and not self.interrupted:
            self._match()
            self.trained.append(self._trained(t + 1))
        return math.nan

    def finish(self) -> None:
        """The steps on S."""
        self._match()

    def _match(self) -> None:
        """The steps on S, from noise, towards all ways that came."""
        method = self.method
        before, self.latents = self.latents, self._begin()
        parts = self._parts()
        ways = [
            (start, rows[k], parts[row])
            for t, of_clients in enumerate(self.ways)
            for k, start in enumerate(self._starts(t))
            for row, rows in enumerate(of_clients)
        ]
        ways = [way for way in ways if way[1].any()] or ways  # the others tell nothing
        if not ways:
            return

        def draw(rng: np.random.Generator) -> Way:
            start, gradients, part = ways[int(rng.integers(len(ways)))]
            first = int(rng.integers(len(gradients) - method.segment + 1)) if method.segment else 0
            before, piece = gradients[:first].sum(0), gradients[first : first + (method.segment or 1)].sum(0)
            at, moved = start - method.rate * before, -method.rate * piece
            return Way(at.to(method.device), moved.to(method.device), part)

        try:
            match_ways(
                self.latents,
                self.labels.to(method.device),
                self.network.to(method.device),
                draw,
                self.info,
                distance=DISTANCES[method.distance],
                student_steps=method.student_steps,
                student_rate=method.student_rate,
                steps=method.matching_steps,
                rate=method.matching_rate,
                generator_rate=method.generator_rate,
                smoothness=method.smoothness,
                partition=method.partition,
                first_order=method.first_order,
                checkpointed=method.checkpointed,
                rng=method.public_rng("order of ways"),
                report=self.reporting(),
            )
        except KeyboardInterrupt:
            if self.steps_done - self.steps_forgotten >= method.matching_steps:
                self.latents = before  # an S that is done, in place of one that was begun anew
            raise

    def keep(self) -> Kept:
        """See `Course`."""
        state = {"ways": torch.stack([way.flatten(1) for way in self.ways])}
        if self.trained:
            state["trained"] = torch.stack(self.trained)
        return Kept({"rounds": self.rounds_done}, state, {})

    def restore(self, kept: Kept) -> None:
        """See `Course`."""
        self.rounds_begun = self.rounds_done = kept.progress["rounds"]
        self.ways = [way.reshape(-1, *self._told) for way in kept.state["ways"]]
        self.trained = list(kept.state.get("trained", ()))
        self.steps_done = self.steps_forgotten = self.method.matching_steps * len(self.trained)

    @property
    def chosen(self) -> Mapping[str, Any]:
        """The generator, what its weights have seen, and their hash."""
        return {"parametrisation": recorded(self.generator, self.info)}

    def dataset(self) -> SyntheticDataset:
        """See `Course`."""
        with torch.no_grad():
            images = presentable(self.latents.examples())
        return SyntheticDataset(images, self.labels, self.info, self.method.partition)

    def _starts(self, t: int) -> list[Tensor]:
        """The surrogates' first weights in round t, flat."""
        if t and self.method.surrogates == "continued":
            return self._ends(t - 1)
        if t and self.method.surrogates == "trained":
            return list(self.trained[t - 1])
        spec, info = self.method.spec, self.info
        made = [spec.build(info.shape, info.num_classes, seed) for seed in self.method.seeds(t)]
        return [_flat(network) for network in made]

    def _trained(self, t: int) -> Tensor:
        """Surrogates for round t: networks that S trains, each from a public start of its own, [starts, parameters]."""
        method, info, dataset = self.method, self.info, self.dataset().expanded()
        images, labels = dataset.images.to(method.device), dataset.labels.to(method.device)
        self.say("networks learn from S so far")
        found = []
        for k in range(method.starts):
            network = method.spec.build(info.shape, info.num_classes, method.public_seed("surrogate", t, k))
            train(
                network.to(method.device).train(),
                images,
                labels,
                epochs=method.surrogate_epochs,
                batch_size=64,
                learning_rate=0.01,
                momentum=0.9,
                weight_decay=5e-4,
                generator=torch.Generator().manual_seed(method.public_seed("training", t, k)),
            )
            found.append(_flat(network).cpu())
        return presentable(torch.stack(found))

    def _begin(self) -> Latents:
        """S as noise makes it."""
        rng = self.method.public_rng("latents")
        return Latents.drawn(self.generator, self.info, len(self.labels), rng, self.method.device)

    def _ends(self, t: int) -> list[Tensor]:
        """Where the clients' mean way leads them in round t."""
        rows = [row for row in self.ways[t] if row.any()]
        way = torch.stack(rows).mean(0).sum(1) if rows else torch.zeros_like(self.ways[t][0, :, 0])
        return [start - self.method.rate * own for start, own in zip(self._starts(t), way, strict=True)]

    def _state(self, weights: Tensor) -> dict[str, Tensor]:
        """Of a surrogate with these weights, on the CPU."""
        network = copy.deepcopy(self.network).cpu()
        parameters = [p for p in network.parameters() if p.requires_grad]
        with torch.no_grad():
            for p, part in zip(parameters, torch.split(weights, [p.numel() for p in parameters]), strict=True):
                p.copy_(part.view_as(p))
        return dict(network.state_dict())

    def _parts(self) -> list[Tensor | None]:
        """Which of S's examples go whose way: all of them the mean's, or of each class a share each client's."""
        if self.method.match == "mean":
            return [None]
        shares = np.array_split(np.arange(self.method.ipc), len(self.started.client_ids))
        own = torch.arange(self.info.num_classes)[:, None] * self.method.ipc
        return [(own + torch.from_numpy(share)).flatten().to(self.method.device) for share in shares]


def _flat(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters() if p.requires_grad])
