"""DistDD: distributed data distillation by gradient matching (Wang and Wang, arXiv 2410.08665, Algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError
from private_distdd.limits import NETWORKS
from private_distdd.matching.gradients import DISTANCES
from private_distdd.methods.distdd_course import QUESTION_AT_SEEDS, DistDDCourse
from private_distdd.methods.distdd_layout import distdd_layout
from private_distdd.methods.method import Method
from private_distdd.methods.parametrisation import generator_of, require_parametrisation
from private_distdd.methods.register import register_method
from private_distdd.networks.generators import Generator
from private_distdd.networks.spec import ModelSpec
from private_distdd.questions.class_gradients import GRANULARITIES
from private_distdd.questions.class_gradients_at_seeds import NETWORK_EVENTS
from private_distdd.questions.register import private_question
from private_distdd.server.layout import Layout
from private_distdd.server.start import Started
from private_distdd.validate import require_count, require_number
from private_distdd.wire.run import Run

OPTIMIZERS = ("adam", "sgd")
SCHEDULES = ("constant", "cosine")
NETWORK_UPDATES = ("synthetic", "aggregated")
INITIALIZATIONS = ("noise", "real")
_LARGE = 24  # pixels: of images that a generator makes unless another parametrisation is given


@register_method
@dataclass(frozen=True)
class DistDD(Method):
    """Distil a federation's data into `ipc` synthetic images a class by matching class gradients.

    Each round the server sends network weights theta_t, the clients answer with their class gradients, and the server
    changes the synthetic images S so that S's gradients match.  Symbols are those of the paper.

    Args:
        ipc: images per class of S, >= 1.
        rounds: T, communication rounds, >= 1.
        model: the registered network whose gradients are matched.
        model_args: its arguments.
        networks_per_query: K, random networks whose gradients a query asks for, each to be matched, >= 1.  More than 1
            needs `reinit_every` 1 and `network_steps` 0: networks that are nothing but their public seeds.
        network_events: how K networks are measured with privacy: in "one" event, with noise sqrt(K) sigma C on each
            gradient, or "each" in an event of its own, on coins of its own, with noise sigma C and K times the events.
        participation: share of clients asked each round (the paper's delta), in (0, 1]; drawn from the public seed
            beforehand.  It does not amplify privacy; it lowers the number of queries a client answers.
        aggregator: see `Method`.
        granularity: "class": one gradient a class (the paper); "joint": one in all (as PSG).  One event either way.
        distance: "cosine" of whole gradients, "layer_cosine" (DC's, by layer and output row) or "squared_l2" (eq. 27).
        matching_steps: zeta_S, steps on S a round, >= 1.
        matching_rate: eta_S, their rate, > 0.
        matching_schedule: "constant" rate, or "cosine": it falls along half a cosine to 0 at the last planned step.
        matching_optimizer: "adam", or "sgd" (momentum 0.5, as DC).
        memory: how many of the newest rounds' messages the steps may use, >= 1: the first step of a round matches the
            newest network, each other one a random one of these.  1 is the paper; more is free post-processing.
        network_steps: zeta_theta, steps on the network a round, >= 0.
        network_rate: eta_theta, their rate, > 0.
        network_momentum: in [0, 1): what a step on the network keeps of the one before; begins anew with each network.
        network_update: "synthetic": SGD on S (eq. 7); "aggregated": one step along the aggregated gradient (line 20);
            a network that is never drawn anew is then released beside S as its teacher, and gives it soft labels.
        reinit_every: rounds after which the network is drawn anew, >= 1, or None for never (the paper).
        parametrisation: what S is a function of: "pixels" (the paper); "convolutional", the latents of a small random
            generator, whose weights are learned with them; or those of a `Generator`, see `public_generator`, which
            must have seen none of the clients' examples.  With a generator, `matching_rate` is that of its latents.
            Default: "convolutional" with privacy for images with sides of 24 pixels or more, else "pixels".
        generator_rate: of a generator's weights that are learned, > 0; it falls as `matching_rate` does.
        initialization: S starts from "noise" (standard normal) or, without privacy only, from "real" images.
        batch_per_class: without privacy only: |B_c|, real examples of each class a round, over all clients together,
            drawn without replacement as if the data were in one place (default 64).  With privacy, q decides.
        quorum: see `Method`.
        deadline: see `Method`.
        message_format: see `Method`.
        privacy: the mechanism of every message; None is not private, and is said loudly.
        device: where the server computes ("cpu", "cuda").
        seed: steers everything public: S's start, networks, participation, batches without privacy.  Never the noise.

    Raises:
        ConfigurationError: a value is outside its range, or contradicts `privacy`.
        ModelError: `model_args` are not JSON-able.

    Formal guarantee: with `privacy`, everything the clients send, and so the release, is (epsilon, delta)-DP for adding
    or removing one labelled example of one client, epsilon = `release.epsilon[client_id]`, under the assumptions of
    docs/theorem.md; the server's steps are post-processing.  Schedule, sigma, q, C, b are fixed before the first query.
    """

    name: ClassVar[str] = "DistDD"
    question: ClassVar[str] = "class_gradients"

    ipc: int = 10
    rounds: int = 100
    model: str = field(default="convnet", kw_only=True)
    model_args: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    networks_per_query: int = field(default=1, kw_only=True)
    network_events: str = field(default="one", kw_only=True)
    participation: float = field(default=1.0, kw_only=True)
    granularity: str = field(default="class", kw_only=True)
    distance: str = field(default="cosine", kw_only=True)
    matching_steps: int = field(default=10, kw_only=True)
    matching_rate: float = field(default=0.1, kw_only=True)
    matching_schedule: str = field(default="cosine", kw_only=True)
    matching_optimizer: str = field(default="adam", kw_only=True)
    memory: int = field(default=20, kw_only=True)
    network_steps: int = field(default=10, kw_only=True)
    network_rate: float = field(default=0.1, kw_only=True)
    network_momentum: float = field(default=0.0, kw_only=True)
    network_update: str = field(default="synthetic", kw_only=True)
    reinit_every: int | None = field(default=5, kw_only=True)
    parametrisation: str | Generator | None = field(default=None, kw_only=True)
    generator_rate: float = field(default=0.01, kw_only=True)
    initialization: str = field(default="noise", kw_only=True)
    batch_per_class: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("ipc", self.ipc, "10 is usual.")
        require_count("rounds", self.rounds, "100 is usual without privacy.")
        require_count("matching_steps", self.matching_steps, "Take at least one step on S a round.")
        require_count("networks_per_query", self.networks_per_query, "1 is usual.", at_most=NETWORKS)
        require_count("memory", self.memory, "1 matches the newest messages only.")
        require_count("network_steps", self.network_steps, "0 leaves the network as it is.", at_least=0)
        if self.reinit_every is not None:
            require_count("reinit_every", self.reinit_every, "None never draws the network anew.")
        for name in ("matching_rate", "network_rate"):
            require_number(name, getattr(self, name), 0, math.inf, "a finite number > 0", "0.1 or 0.01 is usual.")
        at_zero = math.nextafter(0, -1)
        require_number("network_momentum", self.network_momentum, at_zero, 1, "0 <= momentum < 1", "0.9 is usual.")
        require_number(
            "participation",
            self.participation,
            0,
            math.nextafter(1, 2),
            "0 < participation <= 1",
            "It is the share of clients asked each round.",
        )
        for name, options in (
            ("granularity", GRANULARITIES),
            ("distance", tuple(DISTANCES)),
            ("matching_schedule", SCHEDULES),
            ("matching_optimizer", OPTIMIZERS),
            ("network_update", NETWORK_UPDATES),
            ("network_events", NETWORK_EVENTS),
            ("initialization", INITIALIZATIONS),
        ):
            if getattr(self, name) not in options:
                raise ConfigurationError(f"{name} = {getattr(self, name)!r}", f"one of {options}", "Choose one.")
        require_parametrisation(self.parametrisation, self.generator_rate)
        if self.initialization == "real" and self.parametrisation not in (None, "pixels"):
            raise ConfigurationError(
                f"initialization = 'real' with parametrisation = {self.parametrisation!r}",
                "'noise'",
                "A generator's latents start from noise.",
            )
        if self.network_update == "aggregated" and self.network_steps > 1:
            raise ConfigurationError(
                f"network_steps = {self.network_steps} with network_update = 'aggregated'",
                "0 or 1",
                "One aggregated gradient is one step (line 20).",
            )
        if self.networks_per_query > 1 and (self.reinit_every != 1 or self.network_steps):
            raise ConfigurationError(
                f"networks_per_query = {self.networks_per_query} with reinit_every = {self.reinit_every} and "
                f"network_steps = {self.network_steps}",
                "reinit_every = 1 and network_steps = 0",
                "Several networks are sent as their seeds: new ones each round, and not trained.",
            )
        if self.batch_per_class is not None:
            require_count("batch_per_class", self.batch_per_class, "64 is usual.")
            if self.privacy is not None:
                raise ConfigurationError(
                    f"batch_per_class = {self.batch_per_class} with privacy",
                    "None",
                    "With privacy every example is drawn by its own coin: set Privacy(sample_rate=...).",
                )
        if self.privacy is not None and self.initialization == "real":
            raise ConfigurationError(
                "initialization = 'real' with privacy",
                "'noise'",
                "Real images would leave their owners without passing the mechanism.",
            )
        self.spec  # noqa: B018 - arguments are checked when the specification is made

    @property
    def teaches(self) -> bool:
        """Do the clients' gradients alone train one network from the first round to the last?"""
        return self.network_update == "aggregated" and self.network_steps == 1 and self.reinit_every is None

    @property
    def spec(self) -> ModelSpec:
        """The network's registered name with its arguments."""
        return ModelSpec(self.model, self.model_args)

    @property
    def steered(self) -> str:
        """See `Method`."""
        return "S's start, networks, participation, draws without privacy"

    def settings(self) -> dict[str, Any]:
        """See `Method`."""
        return super().settings() | {"model_args": dict(self.model_args)}

    @property
    def events_per_query(self) -> int:
        """One, or one for each of a query's networks."""
        return self.networks_per_query if self.network_events == "each" else 1

    @classmethod
    def asked(cls, settings: Mapping[str, Any]) -> str:
        """See `Method`."""
        return cls.question if settings.get("networks_per_query", 1) == 1 else QUESTION_AT_SEEDS

    def generator(self, info: DatasetInfo) -> Generator | None:
        """What makes S of latents; None for pixels.

        Raises:
            ConfigurationError, ModelError: it cannot make such examples.
        """
        # Noise is what a prior helps against; it did at 28 x 28 pixels, and not at 8 x 8 (docs/results.md).
        large = info.form.spatial and min(info.shape[1:]) >= _LARGE
        usual = "convolutional" if large and self.privacy is not None else "pixels"
        return generator_of(self.parametrisation, usual, info, self.public_seed("generator"))

    def at_seeds(self, seeds: Iterable[int]) -> dict[str, Any]:
        """Arguments of the query for networks that are nothing but their seeds."""
        own = {"model": self.spec.to_json(), "granularity": self.granularity}
        return {**own, "seeds": list(seeds), "events": self.network_events}

    def schedule(self, client_ids: Sequence[str]) -> list[list[str]]:
        """Who is asked in each round: drawn beforehand from the public seed."""
        return self.drawn(client_ids, self.rounds, self.participation)

    def check(self, info: DatasetInfo) -> None:
        """See `Method`."""
        self.spec.validate(info.shape, info.num_classes)
        self.generator(info)
        if self.privacy is None:
            return
        # As a client will, so that a network it would refuse is refused before anybody is asked.
        private_question(QUESTION_AT_SEEDS, self.at_seeds(range(self.networks_per_query)), {}, info, "cpu")

    def layout(self, run: Run, client_ids: Sequence[str]) -> Layout:
        """See `Method`."""
        return distdd_layout(self, run, client_ids)

    def course(self, started: Started) -> DistDDCourse:
        """See `Method`."""
        return DistDDCourse(self, started)
