"""FedAvg (McMahan et al. 2017) and FedProx (Li et al. 2020), with the clients' privacy and bill of every method."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError
from private_distdd.limits import STEPS
from private_distdd.methods.method import Method
from private_distdd.methods.register import register_method
from private_distdd.networks.spec import ModelSpec
from private_distdd.networks.trained import TrainedNetwork
from private_distdd.questions.local_training import LocalTraining
from private_distdd.questions.register import plain_question, private_question
from private_distdd.server.layout import Field, Layout, answered, is_between, is_part
from private_distdd.server.loop import Course, Kept, named, unnamed
from private_distdd.server.reading import Wanted
from private_distdd.server.start import Started
from private_distdd.validate import require_count, require_number
from private_distdd.wire.message import Message, stack
from private_distdd.wire.query import Query
from private_distdd.wire.run import Run

_log = logging.getLogger("private_distdd")
_BATCH = 32  # usual without privacy


@register_method
@dataclass(frozen=True)
class FedAvg(Method):
    """Train one network on a federation's data by local steps and averages; the release holds it as its `teacher`.

    Each round the clients asked train the network on their own examples, and the server moves it along the mean of
    their ways: over examples without privacy (McMahan et al. 2017), over clients with it.

    With privacy a client's every local step is one release of the mechanism (DP-SGD at the client), so a round costs
    `local_steps` events.  A step is along the noisy sum of clipped gradients over b: choose the divisor near the number
    of examples that a client's coins take, q n.

    Args:
        rounds: T, >= 1.
        model: the registered network.
        model_args: its arguments.
        participation: share of clients asked each round, in (0, 1]; drawn from the public seed beforehand.
        local_steps: of a client's SGD in a round, 1 ... 4,096.
        learning_rate: of these steps, in (0, 10^6].
        proximal: mu, pull towards the round's first weights, >= 0; 0 is FedAvg.
        batch_size: without privacy only: examples of a step, >= 1 (default 32).  With privacy, q decides.
        aggregator: see `Method`.
        quorum: see `Method`.
        deadline: see `Method`.
        message_format: see `Method`; scales are those of one step's noise.
        privacy: the mechanism of every local step; None is not private, and is said loudly.
        device: where the server computes ("cpu", "cuda").
        seed: steers everything public: first weights, participation, order without privacy.  Never the noise.

    Raises:
        ConfigurationError: a value is outside its range, or contradicts `privacy`.
        ModelError: `model_args` are not JSON-able.

    Formal guarantee: with `privacy`, everything the clients send, and so the network, is (epsilon, delta)-DP for adding
    or removing one labelled example of one client, epsilon = `release.epsilon[client_id]`, under the assumptions of
    docs/theorem.md: a message is computed from the noisy sums of its local steps alone, each of which is an event.

    Source: McMahan et al. 2017, Algorithm 1; Li et al. 2020, eq. 2; with privacy Abadi et al. 2016 at each client.
    """

    name: ClassVar[str] = "FedAvg"
    question: ClassVar[str] = "local_training"

    rounds: int = 20
    model: str = field(default="convnet", kw_only=True)
    model_args: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    participation: float = field(default=1.0, kw_only=True)
    local_steps: int = field(default=10, kw_only=True)
    learning_rate: float = field(default=0.1, kw_only=True)
    proximal: float = field(default=0.0, kw_only=True)
    batch_size: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("rounds", self.rounds, "20 is usual.")
        above_one = math.nextafter(1, 2)
        require_number(
            "participation", self.participation, 0, above_one, "0 < participation <= 1", "It is the share asked."
        )
        require_count("local_steps", self.local_steps, "10 is usual.", at_most=STEPS)
        require_number("learning_rate", self.learning_rate, 0, math.inf, "a finite number > 0", "0.1 is usual.")
        if self.batch_size is not None:
            require_count("batch_size", self.batch_size, "32 is usual.")
        if self.batch_size is not None and self.privacy is not None:
            raise ConfigurationError(
                f"batch_size = {self.batch_size} with privacy",
                "None",
                "With privacy every example is drawn by its own coin: set Privacy(sample_rate=...).",
            )
        LocalTraining.steps_of(self._asked(0))  # as a client will read them

    @property
    def spec(self) -> ModelSpec:
        """The network's registered name with its arguments."""
        return ModelSpec(self.model, self.model_args)

    @property
    def steered(self) -> str:
        """See `Method`."""
        return "first weights, participation, order without privacy"

    def settings(self) -> dict[str, Any]:
        """See `Method`."""
        return super().settings() | {"model_args": dict(self.model_args)}

    @property
    def events_per_query(self) -> int:
        """One a local step."""
        return self.local_steps

    def schedule(self, client_ids: Sequence[str]) -> list[list[str]]:
        """Who is asked in each round: drawn beforehand from the public seed."""
        return self.drawn(client_ids, self.rounds, self.participation)

    def _asked(self, t: int) -> dict[str, Any]:
        """Arguments of the query of round t."""
        batch = _BATCH if self.batch_size is None else self.batch_size
        return {
            "model": self.spec.to_json(),
            "steps": self.local_steps,
            "rate": self.learning_rate,
            "proximal": self.proximal,
            "batch_size": batch if self.privacy is None else None,
            "seed": self.public_seed("order", t),
        }

    def first(self, info: DatasetInfo) -> dict[str, Tensor]:
        """The first weights."""
        return dict(self.spec.build(info.shape, info.num_classes, self.public_seed("network")).state_dict())

    def check(self, info: DatasetInfo) -> None:
        """See `Method`."""
        self.spec.validate(info.shape, info.num_classes)
        make = plain_question if self.privacy is None else private_question
        make(self.question, self._asked(0), self.first(info), info, "cpu")  # as a client will

    def layout(self, run: Run, client_ids: Sequence[str]) -> Layout:
        """See `Method`."""
        network = {name: value.to("meta") for name, value in self.first(run.info).items()}
        return Layout(
            run,
            {
                "rounds": Field(f"1 ... {self.rounds}", lambda value, _: is_between(value, 1, self.rounds)),
                "active": Field("some of the clients, in order", lambda value, _: is_part(value, client_ids)),
                "answered": answered(client_ids, self.schedule(client_ids)),
            },
            lambda _: named("network", network),
        )

    def course(self, started: Started) -> FedAvgCourse:
        """See `Method`."""
        return FedAvgCourse(self, started)


@register_method
@dataclass(frozen=True)
class FedProx(FedAvg):
    """`FedAvg` whose clients are pulled towards the round's first weights.

    Source: Li et al. 2020, eq. 2.
    """

    name: ClassVar[str] = "FedProx"

    proximal: float = field(default=0.01, kw_only=True)


class FedAvgCourse(Course):
    """One run: the network, moved once a round.

    Args:
        method: the knobs.
        started: the run, as clients agreed to it.
    """

    def __init__(self, method: FedAvg, started: Started) -> None:
        super().__init__(started, method.rounds)
        self.method = method
        self.schedule = method.schedule(started.client_ids)
        self.network = method.spec.build(self.info.shape, self.info.num_classes)
        self.network.load_state_dict(method.first(self.info))

    @property
    def planned(self) -> int:
        """Rounds."""
        return self.rounds

    @property
    def _parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    def wanted(self, t: int) -> Mapping[str, Wanted]:
        """The network as it is, to those whose turn it is."""
        run, method = self.session.run, self.method
        query = Query(run.run_id, t, method.question, method._asked(t), dict(self.network.state_dict()), run.plan)
        dimension = sum(parameter.numel() for parameter in self._parameters)
        return dict.fromkeys(self.schedule[t], Wanted(query, (1, dimension)))

    def step(self, t: int, messages: Sequence[Message]) -> float:
        """Move the network along the aggregate of the clients' ways; returns how far."""
        if not messages:
            return math.nan
        way = self.method.rule(*stack(messages))[0] * self.method.learning_rate
        parts = torch.split(way, [parameter.numel() for parameter in self._parameters])
        moved = [p.detach() - part.view_as(p) for p, part in zip(self._parameters, parts, strict=True)]
        if not all(bool(torch.isfinite(weights).all()) for weights in moved):
            _log.warning("round %d would move the network beyond all numbers: it stays where it is", t + 1)
            return math.inf
        with torch.no_grad():
            for parameter, weights in zip(self._parameters, moved, strict=True):
                parameter.copy_(weights)
        return float(torch.linalg.vector_norm(way))

    def keep(self) -> Kept:
        """See `Course`."""
        return Kept({"rounds": self.rounds_done}, named("network", self.network.state_dict()), {})

    def restore(self, kept: Kept) -> None:
        """See `Course`."""
        self.rounds_begun = self.rounds_done = kept.progress["rounds"]
        self.network.load_state_dict(unnamed("network", kept.state))

    def dataset(self) -> None:
        """None: there is no S."""

    def teacher(self) -> TrainedNetwork:
        """The network."""
        return TrainedNetwork(self.method.spec, self.network.state_dict(), self.info)
