"""One run of DistDD: its queries, the steps on S, and the network whose gradients are matched."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from private_distdd.errors import ConfigurationError
from private_distdd.matching.gradients import DISTANCES, distance_slope, parameter_shapes
from private_distdd.methods.parametrisation import recorded
from private_distdd.methods.teacher import descend, softened, trained_network
from private_distdd.methods.without_privacy import allocate, class_counts, in_class_order
from private_distdd.networks.loss import loss_sum
from private_distdd.networks.trained import TrainedNetwork
from private_distdd.server.loop import Course, Kept, named, unnamed
from private_distdd.server.reading import Wanted
from private_distdd.server.start import Started
from private_distdd.synthetic.dataset import SyntheticDataset, presentable
from private_distdd.synthetic.latents import Latents
from private_distdd.wire.message import Message, stack
from private_distdd.wire.query import Query

if TYPE_CHECKING:  # it is its course
    from private_distdd.methods.distdd import DistDD

DEFAULT_BATCH_PER_CLASS = 64
QUESTION_AT_SEEDS = "class_gradients_at_seeds"


class _Remembered(NamedTuple):
    """A network of one round that may be matched again, and the aggregate of its messages."""

    server_round: int
    network: nn.Module
    target: Tensor


class DistDDCourse(Course):
    """One run's state and its rounds.

    Args:
        method: the knobs.
        started: the run, as clients agreed to it.
    """

    def __init__(self, method: DistDD, started: Started) -> None:
        super().__init__(started, method.rounds)
        self.method, self.asked = method, method.schedule(started.client_ids)
        self.class_counts: dict[str, list[int]] | None = None
        self.labels = torch.arange(self.info.num_classes).repeat_interleave(method.ipc)
        self.generator = method.generator(self.info)
        self.latents = self._latents()
        self.has_start = False  # is S where its steps begin?
        self.optimizer = self._optimizer()
        self.network = self._fresh_network(0)
        self.velocity = self._rest()
        self.memory: list[_Remembered] = []

    @property
    def planned(self) -> int:
        """Rounds."""
        return self.rounds

    def prepare(self) -> None:
        """Counts and S's start: each is asked for once, and kept before the next is asked for."""
        if self.session.run.plan is None and self.class_counts is None:
            self.class_counts = class_counts(self.session, self.rounds)
            self.save()
        if not self.has_start:
            self._begin()
            self.has_start = True
            self.save()

    def wanted(self, t: int) -> Mapping[str, Wanted]:
        """Seeds of random networks, or the weights of one that was trained, to those whose turn it is."""
        method, run = self.method, self.session.run
        born = t - t % (method.reinit_every or method.rounds)  # the round of the network's seed
        if t == born:
            self.network, self.velocity = self._fresh_network(t), self._rest()
        groups = self.info.num_classes if method.granularity == "class" else 1
        length = sum(size.numel() for size in parameter_shapes(self.network))
        shape = (groups, method.networks_per_query * length)
        question, weights = method.question, {}
        if t == born or not method.network_steps:
            question = QUESTION_AT_SEEDS
            arguments = method.at_seeds(self._seeds(born))
        else:
            arguments = {"model": method.spec.to_json(), "granularity": method.granularity}
            weights = {name: value.detach().cpu() for name, value in self.network.state_dict().items()}
        batches = self._batches(t, self.asked[t], method.batch_per_class or DEFAULT_BATCH_PER_CLASS)
        if batches is None:
            everyone = Wanted(Query(run.run_id, t, question, arguments, weights, run.plan), shape, as_measured=True)
            return dict.fromkeys(self.asked[t], everyone)
        seed = method.public_seed("batch", t)
        return {
            name: Wanted(Query(run.run_id, t, question, arguments, weights, None, (batch, seed)), shape)
            for name, batch in batches.items()
        }

    def step(self, t: int, messages: Sequence[Message]) -> float:
        """Match the newest messages and remembered ones; then move the network."""
        if not messages:
            return math.nan
        # Clients that left may have made the round too small to trim or take a median: the mean of the rest then.
        target = self.method.rule(*stack(messages)).to(self.method.device)
        if self.method.network_events == "one":  # an example's row holds its gradients over this
            target = target * math.sqrt(self.method.networks_per_query)
        networks = self._networks(t) if self.method.networks_per_query > 1 else [copy.deepcopy(self.network)]
        self._remember(t, networks, target)
        loss = self._match(t)
        self._update_network(target)
        return loss

    def keep(self) -> Kept:
        """See `Course`."""
        progress = {
            "class_counts": self.class_counts,
            "started": self.has_start,
            "rounds": self.rounds_done,
            "steps": self.steps_done,
        }
        optimizer = self.optimizer.state_dict()["state"]  # nothing before the first step
        network = named("network", self.network.state_dict())
        if self.method.network_momentum:
            network |= named("velocity", {str(k): value for k, value in enumerate(self.velocity)})
        memory: dict[int, dict[str, Tensor]] = {}
        for t, remembered, target in self.memory:
            if self.method.networks_per_query > 1:  # their seeds make the networks anew
                memory[t] = {"target": torch.cat([*memory.get(t, {}).values(), target], dim=1)}
            else:
                memory[t] = {"target": target, **named("network", remembered.state_dict())}
        moments = {f"{k}/{name}": value for k, own in optimizer.items() for name, value in own.items()}
        return Kept(progress, {**self.latents.variables, **network, **named("optimizer", moments)}, memory)

    def restore(self, kept: Kept) -> None:
        """See `Course`."""
        progress, state = kept.progress, kept.state
        self.class_counts, self.has_start = progress["class_counts"], progress["started"]
        self.rounds_begun = self.rounds_done = progress["rounds"]
        self.steps_done = progress["steps"]
        self.latents.restore(state)
        if moments := unnamed("optimizer", state):
            groups = self.optimizer.state_dict()["param_groups"]  # they follow from the settings
            of_each = {k: unnamed(str(k), moments) for k in range(len(groups))}
            self.optimizer.load_state_dict({"state": of_each, "param_groups": groups})
        self.network.load_state_dict(unnamed("network", state))
        for k, value in unnamed("velocity", state).items():
            self.velocity[int(k)].copy_(value)
        for t, tensors in sorted(kept.memory.items()):
            networks = self._networks(t)
            if self.method.networks_per_query == 1:
                networks[0].load_state_dict(unnamed("network", tensors))
            self._remember(t, networks, tensors["target"].to(self.method.device))

    @property
    def chosen(self) -> Mapping[str, Any]:
        """The generator, what its weights have seen, and their hash."""
        return {"parametrisation": recorded(self.generator, self.info)}

    def dataset(self) -> SyntheticDataset:
        """See `Course`."""
        with torch.no_grad():
            images = presentable(self.latents.examples())
        dataset = SyntheticDataset(images, self.labels, self.info)
        return softened(dataset, self.network) if self._taught else dataset

    def teacher(self) -> TrainedNetwork | None:
        """See `Course`."""
        return trained_network(self.method.spec, self.network, self.info) if self._taught else None

    @property
    def _taught(self) -> bool:
        """Has a network been trained that is worth a release?"""
        return self.method.teaches and self.steps_done > 0

    def _batches(self, t: int, client_ids: Sequence[str], per_class: int) -> dict[str, tuple[int, ...]] | None:
        """Without privacy: how many examples of each class each client draws, as if all data were in one place."""
        if self.class_counts is None:
            return None
        holders = [client_id for client_id in client_ids if client_id in self.session.active]
        return allocate(self.class_counts, holders, per_class, self.method.public_rng("allocation", t))

    def _remember(self, t: int, networks: Sequence[nn.Module], target: Tensor) -> None:
        """The networks of round t, each with its own part of the aggregate; older rounds are forgotten."""
        parts = target.chunk(len(networks), dim=1)
        newest = [_Remembered(t, network, part) for network, part in zip(networks, parts, strict=True)]
        self.memory = [*self.memory, *newest][-len(networks) * self.method.memory :]

    def _match(self, t: int) -> float:
        """zeta_S steps on S; returns their mean distance."""
        method, total = self.method, torch.zeros((), dtype=torch.float64, device=self.method.device)
        rng = method.public_rng("memory", t)
        for step in range(method.matching_steps):
            _, network, target = self.memory[-1 if step == 0 else int(rng.integers(len(self.memory)))]
            total += self._distance(network, target)
            for group in self.optimizer.param_groups:
                group["lr"] = group["most"] * self._share_of_rates()
            self.optimizer.step()
            self.steps_done += 1
        return float(total) / method.matching_steps  # a GPU is waited for here, once a round

    def _distance(self, network: nn.Module, target: Tensor) -> Tensor:
        """Distance between S's gradients and the target at one network, summed over the groups; with its slopes."""
        groups = (len(target), -1)  # each class, or everything
        examples = self.latents.examples()
        images = examples.reshape(*groups, *self.info.shape)
        labels = self.labels.reshape(groups).to(images.device)
        activations = self.method.spec.size(self.info.shape, self.info.num_classes).activations
        loss, slope = distance_slope(DISTANCES[self.method.distance], network, images, labels, target, activations)
        # Zeros for what has no part in S, as latents before a layer that is changed: moments are kept of all alike.
        variables = list(self.latents.variables.values())
        slopes = torch.autograd.grad(examples, variables, slope.reshape(examples.shape), materialize_grads=True)
        for variable, own in zip(variables, slopes, strict=True):
            variable.grad = own
        return loss

    def _share_of_rates(self) -> float:
        """Of the rates, at the next matching step."""
        if self.method.matching_schedule == "constant":
            return 1.0
        done = self.steps_done / (self.method.rounds * self.method.matching_steps)
        return (1 + math.cos(math.pi * done)) / 2

    def _update_network(self, target: Tensor) -> None:
        method = self.method
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        for _ in range(method.network_steps):
            if method.network_update == "synthetic":
                images, labels = self.latents.examples().detach(), self.labels.to(method.device)
                step = torch.autograd.grad(loss_sum(self.network, images, labels) / len(labels), parameters)
            else:
                flat = target.mean(dim=0)
                step = torch.split(flat, [p.numel() for p in parameters])
            descend(parameters, self.velocity, step, rate=method.network_rate, momentum=method.network_momentum)

    def _rest(self) -> list[Tensor]:
        """The velocity of a network that has not moved."""
        return [torch.zeros_like(p, requires_grad=False) for p in self.network.parameters() if p.requires_grad]

    def _seeds(self, t: int) -> list[int]:
        """Of the networks that are drawn in round t."""
        method = self.method
        return [method.public_seed("network", t, *([k] if k else [])) for k in range(method.networks_per_query)]

    def _networks(self, t: int) -> list[nn.Module]:
        """Those that are drawn in round t."""
        return [self._built(seed) for seed in self._seeds(t)]

    def _fresh_network(self, t: int) -> nn.Module:
        return self._built(self._seeds(t)[0])

    def _built(self, seed: int) -> nn.Module:
        return self.method.spec.build(self.info.shape, self.info.num_classes, seed).to(self.method.device)

    def _latents(self) -> Latents:
        """S as noise makes it."""
        method = self.method
        purpose = "images" if self.generator is None else "latents"
        return Latents.drawn(self.generator, self.info, len(self.labels), method.public_rng(purpose), method.device)

    def _begin(self) -> None:
        """Bring S to where its steps begin."""
        method = self.method
        if method.initialization == "noise":
            return
        # Real images come by a query of their own, numbered after the last; runs without privacy only.
        batches = self._batches(method.rounds, self.session.active, method.ipc) or {}
        if not batches or min(map(sum, zip(*batches.values(), strict=True))) < method.ipc:
            raise ConfigurationError(
                f"initialization = 'real' with ipc = {method.ipc}",
                "no more images per class than the federation holds of its rarest class",
                "Start from noise, or lower ipc.",
            )
        seed = method.public_seed("start")
        answers = self.session.ask(
            {
                name: Wanted(
                    Query(
                        self.session.run.run_id,
                        method.rounds + 1,
                        "class_examples",
                        {"counts": list(batch)},
                        {},
                        None,
                        (batch, seed),
                    ),
                    (sum(batch), math.prod(self.info.shape)),
                )
                for name, batch in batches.items()
            },
            quorum=1.0,
        )
        if answers.interrupted:
            raise KeyboardInterrupt
        noise = self.latents.examples().detach().cpu()
        self.latents.restore({"images": in_class_order(noise, answers.messages, batches, self.info)})

    def _optimizer(self) -> torch.optim.Optimizer:
        groups = self.latents.groups(self.method.matching_rate, self.method.generator_rate)
        if self.method.matching_optimizer == "adam":
            return torch.optim.Adam(groups)
        return torch.optim.SGD(groups, momentum=0.5)
