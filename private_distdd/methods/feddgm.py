"""FedDGM: matching training trajectories in the latents of a generator (Jia et al., arXiv 2312.01537)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError
from private_distdd.limits import NETWORKS, STEPS
from private_distdd.matching.trajectories import DISTANCES
from private_distdd.methods.feddgm_course import FedDGMCourse
from private_distdd.methods.method import Method
from private_distdd.methods.parametrisation import generator_of, require_parametrisation
from private_distdd.methods.register import register_method
from private_distdd.networks.generators import Generator
from private_distdd.networks.spec import ModelSpec
from private_distdd.questions.arguments import weights_of
from private_distdd.questions.local_training import FASTEST
from private_distdd.questions.register import plain_question, private_question
from private_distdd.server.layout import Field, Layout, answered, is_between, is_part, prototypes
from private_distdd.server.start import Started
from private_distdd.synthetic.mosaic import require_partition
from private_distdd.validate import require_count, require_flag, require_number
from private_distdd.wire.run import Run

MATCHES = ("mean", "clients")
SURROGATES = ("fresh", "continued", "trained")
_BATCH = 32  # usual without privacy
_MATCHING = ("matching_steps", "matching_rate", "generator_rate", "distance", "smoothness")
_STUDENT = ("student_steps", "student_rate", "first_order", "checkpointed")
# What the same messages may be matched with again, where no S was asked about:
_FREE = ("ipc", "partition", "parametrisation", "surrogate_epochs", *_MATCHING, *_STUDENT)


@register_method
@dataclass(frozen=True)
class FedDGM(Method):
    """Distil a federation's data into `ipc` synthetic images a class whose training goes the clients' ways.

    The server sends the seeds of a few small random networks, the surrogates; each client trains each of them on its
    own examples for a few steps and answers with how far they went.  The server then changes the synthetic images S,
    as a function of the latents of a generator, until training on S moves a surrogate the way the clients did.

    With privacy a client's every local step is one release of the mechanism (DP-SGD at the client), so a query costs
    `starts` * `surrogate_steps` events.  A step is along the noisy sum of clipped gradients over b: choose the divisor
    near the number of examples that a client's coins take, q n.

    Args:
        ipc: stored images per class of S, over the whole release, >= 1.
        rounds: queries to each client, >= 1.
        model: the registered network that the surrogates are.
        model_args: its arguments.  Default: a ConvNet of width 8 and depth 2; other models as they are.
        starts: surrogates of a query, >= 1.
        surrogate_steps: of a client's SGD on each of them, 1 ... 4,096.
        learning_rate: of these steps, in (0, 10^6].  Default: 2 with privacy, where gradients are clipped, else 0.2.
        batch_size: without privacy only: examples of a step, >= 1 (default 32).  With privacy, q decides.
        surrogates: of later rounds: "fresh" public starts; "continued", from the ends of the round before; or "trained"
            on S as it is by then (the paper), for which S is matched after each round.
        surrogate_epochs: of that training, >= 1.
        segment: ask for the whole ways, at the same epsilon, and match pieces of so many steps, 1 ...
            `surrogate_steps`; None: for their ends, which makes messages `surrogate_steps` times shorter.
        match: "mean": the mean of the clients' ways, in which their noise falls; or "clients" (the paper): each
            client's way by a share of S of its own, of which S is the union; needs at least as many `ipc` as clients.
        parametrisation: what S is a function of: "pixels"; "convolutional", the latents of a small random generator,
            whose weights are learned with them; or those of a `Generator`, see `public_generator` and
            `Generator.loaded`.  Default: "convolutional" for images, "pixels" for rows of a table.
        distance: "cosine" of the two movements, or "l2", squared and normalised (the paper).
        student_steps: steps on S that shall go a client's way, >= 1.
        student_rate: their rate, > 0, before it is learned.
        matching_steps: steps on the latents, >= 1, each at one way.  Under much noise fewer are better.
        matching_rate: Adam's rate for latents, > 0; it falls along half a cosine to 0, as the generator's does.
        generator_rate: Adam's for a generator's learned weights, > 0.
        smoothness: weight of S's total variation beside the distance, >= 0.
        partition: each stored image is a mosaic of partition x partition smaller ones, >= 1.
        first_order: leave out derivatives through the student's earlier steps, as the published code does; the cosine
            does not see the student's rate then, which stays as it is.
        checkpointed: compute the student's steps twice, to hold but one of them in memory.
        aggregator: see `Method`; with "mean" of `match`, of the ways.
        quorum: see `Method`.
        deadline: see `Method`.
        message_format: see `Method`; scales are those of one step's noise.
        privacy: the mechanism of every local step; None is not private, and is said loudly.
        device: where the server computes ("cpu", "cuda").
        seed: steers everything public: surrogates, latents, order.  Never the noise.

    Raises:
        ConfigurationError: a value is outside its range, or contradicts `privacy`.
        ModelError: `model_args` are not JSON-able.

    Formal guarantee: with `privacy`, what the clients send, and so the release, is (epsilon, delta)-DP for adding or
    removing one labelled example of one client, epsilon = `release.epsilon[client_id]`, under the assumptions of
    docs/theorem.md: a message holds noisy sums of its local steps, each of which is an event, or is computed from them;
    all that the server does with it is post-processing.  A generator must have seen none of the clients' examples:
    what it has seen is outside the guarantee.

    Source: Jia et al. 2023, Algorithm 1; Cazenavette et al. 2022 (MTT).  Local noise, several starts in a query, the
    mean of the ways, the cosine and the learned generator are ours.
    """

    name: ClassVar[str] = "FedDGM"
    question: ClassVar[str] = "local_trainings"

    ipc: int = 10
    rounds: int = 1
    model: str = field(default="convnet", kw_only=True)
    model_args: Mapping[str, Any] | None = field(default=None, kw_only=True)
    starts: int = field(default=10, kw_only=True)
    surrogate_steps: int = field(default=10, kw_only=True)
    learning_rate: float | None = field(default=None, kw_only=True)
    batch_size: int | None = field(default=None, kw_only=True)
    surrogates: str = field(default="fresh", kw_only=True)
    surrogate_epochs: int = field(default=30, kw_only=True)
    segment: int | None = field(default=None, kw_only=True)
    match: str = field(default="mean", kw_only=True)
    parametrisation: str | Generator | None = field(default=None, kw_only=True)
    distance: str = field(default="cosine", kw_only=True)
    student_steps: int = field(default=10, kw_only=True)
    student_rate: float = field(default=0.1, kw_only=True)
    matching_steps: int = field(default=300, kw_only=True)
    matching_rate: float = field(default=0.1, kw_only=True)
    generator_rate: float = field(default=0.01, kw_only=True)
    smoothness: float = field(default=0.0, kw_only=True)
    partition: int = field(default=1, kw_only=True)
    first_order: bool = field(default=False, kw_only=True)
    checkpointed: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("ipc", self.ipc, "10 is usual.")
        require_count("rounds", self.rounds, "1 is usual.")
        require_count("starts", self.starts, "10 is usual.", at_most=NETWORKS)
        require_count("surrogate_steps", self.surrogate_steps, "10 is usual.", at_most=STEPS)
        for name in ("surrogate_epochs", "student_steps", "matching_steps", "partition"):
            require_count(name, getattr(self, name), "See the defaults.")
        fastest = math.nextafter(FASTEST, math.inf)
        if self.learning_rate is not None:
            require_number("learning_rate", self.learning_rate, 0, fastest, "0 < learning_rate <= 10^6", "See above.")
        for name in ("student_rate", "matching_rate"):
            require_number(name, getattr(self, name), 0, math.inf, "a finite number > 0", "See the defaults.")
        at_zero = math.nextafter(0, -1)
        require_number("smoothness", self.smoothness, at_zero, math.inf, "a finite number >= 0", "0 leaves it out.")
        for name in ("first_order", "checkpointed"):
            require_flag(name, getattr(self, name))
        for name, options in (("distance", tuple(DISTANCES)), ("match", MATCHES), ("surrogates", SURROGATES)):
            if getattr(self, name) not in options:
                raise ConfigurationError(f"{name} = {getattr(self, name)!r}", f"one of {options}", "Choose one.")
        require_parametrisation(self.parametrisation, self.generator_rate)
        if self.segment is not None:
            require_count("segment", self.segment, "Pieces of a way.", at_most=self.surrogate_steps)
        if self.batch_size is not None:
            require_count("batch_size", self.batch_size, "32 is usual.")
            if self.privacy is not None:
                raise ConfigurationError(
                    f"batch_size = {self.batch_size} with privacy",
                    "None",
                    "With privacy every example is drawn by its own coin: set Privacy(sample_rate=...).",
                )
        self.spec  # noqa: B018 - arguments are checked when the specification is made

    @property
    def spec(self) -> ModelSpec:
        """The surrogates' registered name with its arguments."""
        usual = {"width": 8, "depth": 2} if self.model == "convnet" else {}
        return ModelSpec(self.model, usual if self.model_args is None else self.model_args)

    @property
    def rate(self) -> float:
        """`learning_rate`, or its default."""
        return self.learning_rate or (0.2 if self.privacy is None else 2.0)

    def generator(self, info: DatasetInfo) -> Generator | None:
        """What makes S of latents; None for pixels, or the values of rows.

        Raises:
            ConfigurationError, ModelError: it cannot make such examples.
        """
        usual = "convolutional" if info.form.spatial else "pixels"
        return generator_of(self.parametrisation, usual, info, self.public_seed("generator"))

    @property
    def steered(self) -> str:
        """See `Method`."""
        return "surrogates, generator, latents, order of steps, order without privacy"

    def settings(self) -> dict[str, Any]:
        """See `Method`."""
        return super().settings() | {
            "learning_rate": self.rate,
            "model_args": dict(self.spec.arguments),
            "matchings": self.matchings,
        }

    def identity(self) -> dict[str, Any]:
        """The settings but for those that the same messages may be matched with again: all, where S was asked about."""
        free = _FREE if self.matchings == 1 else ()
        return {name: value for name, value in super().identity().items() if name not in free}

    @property
    def matchings(self) -> int:
        """How often S is matched, with `matching_steps` each."""
        return self.rounds if self.surrogates == "trained" else 1

    @property
    def events_per_query(self) -> int:
        """One a local step of each surrogate."""
        return self.starts * self.surrogate_steps

    def schedule(self, client_ids: Sequence[str]) -> list[list[str]]:
        """Everybody, in every round.

        Raises:
            ConfigurationError: too few clients for the rule, or more than `ipc` where each has a share of S.
        """
        self.require_rule(len(client_ids))
        if self.match == "clients" and self.ipc < len(client_ids):
            raise ConfigurationError(
                f"ipc = {self.ipc} with match = 'clients' of {len(client_ids)}",
                f"at least {len(client_ids)}",
                "A client's share of S is an image a class or more; or match the mean of the ways.",
            )
        return [list(client_ids)] * self.rounds

    def seeds(self, t: int) -> list[int]:
        """Of the surrogates' first weights in round t."""
        born = t if self.surrogates == "fresh" else 0
        return [self.public_seed("surrogate", born, k) for k in range(self.starts)]

    def asked_in(self, t: int) -> dict[str, Any]:
        """Arguments of the query of round t."""
        batch = _BATCH if self.batch_size is None else self.batch_size
        return {
            "model": self.spec.to_json(),
            "seeds": self.seeds(t),
            "whole": self.segment is not None,
            "steps": self.surrogate_steps,
            "rate": self.rate,
            "batch_size": batch if self.privacy is None else None,
            "seed": self.public_seed("order", t),
        }

    def starting(self, info: DatasetInfo) -> list[dict[str, Tensor]]:
        """The states that the seeds of the first round make."""
        return [dict(self.spec.build(info.shape, info.num_classes, seed).state_dict()) for seed in self.seeds(0)]

    def check(self, info: DatasetInfo) -> None:
        """See `Method`."""
        require_partition(self.partition, info.shape)
        self.spec.validate(info.shape, info.num_classes)
        self.generator(info)
        # As a client will, so that what it would refuse is refused before anybody is asked.
        question = plain_question if self.privacy is None else private_question
        sent = weights_of(self.starting(info)) if self.surrogates != "fresh" and self.rounds > 1 else {}
        question(self.question, self.asked_in(0), sent, info, "cpu")

    def layout(self, run: Run, client_ids: Sequence[str]) -> Layout:
        """See `Method`."""
        parameters = self.spec.size(run.info.shape, run.info.num_classes).parameters
        length = self.starts * (1 if self.segment is None else self.surrogate_steps) * parameters
        rows = len(client_ids) if self.match == "clients" else 1

        def state(progress: Mapping[str, Any]) -> dict[str, Tensor]:
            tensors = prototypes(ways=(progress["rounds"], rows, length))
            if trained := min(progress["rounds"], self.matchings - 1):
                tensors |= prototypes(trained=(trained, self.starts, parameters))
            return tensors

        return Layout(
            run,
            {
                "rounds": Field(f"1 ... {self.rounds}", lambda value, _: is_between(value, 1, self.rounds)),
                "active": Field("some of the clients, in order", lambda value, _: is_part(value, client_ids)),
                "answered": answered(client_ids, self.schedule(client_ids)),
            },
            state,
        )

    def course(self, started: Started) -> FedDGMCourse:
        """See `Method`."""
        return FedDGMCourse(self, started)
