"""CollabDM: one-shot collaborative distillation by distribution matching (Holland et al., arXiv 2408.02266)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, TypeAlias

from torch import Tensor

from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError
from private_distdd.limits import HEADER_BYTES, STEPS, ComputeLimits
from private_distdd.methods.collabdm_course import CollabDMCourse
from private_distdd.methods.method import Method
from private_distdd.methods.parametrisation import generator_of, require_parametrisation
from private_distdd.methods.register import register_method
from private_distdd.methods.teacher import Teacher
from private_distdd.networks.embedding import EmbeddingSpec
from private_distdd.networks.generators import Generator
from private_distdd.networks.spec import ModelSpec
from private_distdd.questions.arguments import weights_of
from private_distdd.questions.class_embeddings import EmbeddingSums
from private_distdd.questions.register import plain_question, private_question
from private_distdd.server.layout import Field, Layout, is_between, is_part, prototypes
from private_distdd.server.loop import named
from private_distdd.server.start import Started
from private_distdd.synthetic.mosaic import require_partition
from private_distdd.validate import require_count, require_flag, require_number
from private_distdd.wire.run import Run

_MOST_TENSORS = HEADER_BYTES // 128  # what a file's header has room for
_SMALLEST_PART = 12  # pixels: of digits with 8, parts of 4 showed nothing
Phase: TypeAlias = Literal["embedding", "teacher", "refinement"]
_OF_WHOLE_MESSAGES = ("mean", "agreement")  # a class that a client leaves out changes nothing for the others
# What the same messages may be matched with again:
_FREE = ("parametrisation", "matching_steps", "matching_rate", "generator_rate", "smoothness")


@register_method
@dataclass(frozen=True)
class CollabDM(Method):
    """Distil a federation's data into `ipc` synthetic images a class from one message of each client.

    By default the server sends the seeds of random networks; a client answers once, with the sums over each class of
    its images' embeddings by all of them; the server then changes the synthetic images S until their mean embeddings
    match.  A message has classes * (2 * frequencies * networks + 1) float32 values, and no weights are sent.

    Several rounds share these networks (`embedding_rounds`).  Those of the other two kinds, if there are any, ask at
    weights that follow from earlier messages: `teacher_rounds` for gradients of a classifier, `refinement_rounds` for
    sums by networks that a first S trained.  The first S takes as many steps as the last one.

    With privacy a message is one release of the mechanism: all embeddings of an image make one row of norm 1, so C is 1
    and there is one event.  At sample_rate 1 that is one Gaussian mechanism, whose epsilon is exact.

    Args:
        ipc: stored images per class of S, >= 1.
        partition: each stored image is a mosaic of partition x partition smaller ones (partition-and-expand), >= 1;
            divides height and width.  Default: 2 for images of even sides of 24 pixels or more, else 1.
        networks: K, random networks that embed, >= 1.
        model: the registered network, used without its last linear layer.
        model_args: its arguments.  Default: a ConvNet of width 32 and depth 2; other models as they are.
        pool: images are averaged over pool x pool pixels before a network sees them; by default `partition`: what S
            cannot show need not be matched, and costs time.
        frequencies: cosines of each network, and as many sines.
        bandwidth: of their Gaussian kernel.
        parametrisation: what S is a function of: "pixels", which None is; "convolutional", the latents of a small
            random generator, whose weights are learned with them; or those of a `Generator`, see `public_generator`,
            which must have seen none of the clients' examples.  With a generator, `matching_rate` is that of its
            latents.
        augment: each network sees all images, the clients' and S, under one movement of its own.
        aggregator: see `Method`.
        holders: with privacy only: what a client says of a class is left out where its noisy count is less than so many
            standard deviations of that count's noise, for it tells noise and nothing else; >= 0, and 3 where classes
            are unevenly held.  For the rules "mean" and "agreement"; others take what is left out for a statement.
        matching_steps: steps on S, >= 1, each at one network.
        matching_rate: Adam's rate, > 0; it falls along half a cosine to 0.
        generator_rate: Adam's for a generator's weights that are learned, > 0.
        smoothness: weight of S's total variation beside the distance, >= 0; keeps S from taking on noise.
        local_steps: without privacy only: clients first distil a share of S from their own data, in so many steps (at
            most 4,096) from mosaics of their real images, and S starts from that (the paper).  0: S starts from noise.
        embedding_rounds: queries among which the networks are shared out, >= 1; divides `networks`.  With privacy each
            query is one release, so at sample_rate 1 the numbers of rounds of the three kinds share the budget.
        teacher_rounds: then, rounds that train a classifier, the teacher, by clipped gradients of all classes
            together; it is released beside S, and gives S its soft labels.  0: none.
        teacher: the registered network that is trained; the default is linear on public wavelet features.
        teacher_args: its arguments.
        teacher_rate: of a step along the mean gradient, in (0, 10^6).
        teacher_momentum: in [0, 1).
        refinement_rounds: last, queries among which as many networks are shared out again, which were trained on a
            first S, and whose means so tell more; divides `networks`.  0: none.
        network_epochs: of their training, >= 1.
        quorum: see `Method`.
        deadline: see `Method`.
        message_format: see `Method`.
        privacy: the mechanism of the message; None is not private, and is said loudly.
        device: where the server computes ("cpu", "cuda").
        seed: steers everything public: networks, S's start.  Never the noise.

    Raises:
        ConfigurationError: a value is outside its range, or contradicts `privacy`.
        ModelError: `model_args` are not JSON-able.

    Formal guarantee: with `privacy`, what the clients send, and so the release, is (epsilon, delta)-DP for adding or
    removing one labelled example of one client, epsilon = `release.epsilon[client_id]`, under the assumptions of
    docs/theorem.md; all that the server does with the messages is post-processing.

    Source: Holland et al. 2024 (CollabDM); Zhao and Bilen 2023 (distribution matching); Zhao et al. 2023 (IDM:
    partition and expand).  Clipped and noisy sums, the kernel features and the count in each row are ours.
    """

    name: ClassVar[str] = "CollabDM"
    question: ClassVar[str] = "class_embeddings"

    ipc: int = 10
    partition: int | None = field(default=None, kw_only=True)
    networks: int = field(default=32, kw_only=True)
    model: str = field(default="convnet", kw_only=True)
    model_args: Mapping[str, Any] | None = field(default=None, kw_only=True)
    pool: int | None = field(default=None, kw_only=True)
    frequencies: int = field(default=256, kw_only=True)
    bandwidth: float = field(default=0.5, kw_only=True)
    augment: bool = field(default=False, kw_only=True)
    parametrisation: str | Generator | None = field(default=None, kw_only=True)
    holders: float = field(default=0.0, kw_only=True)
    matching_steps: int = field(default=1500, kw_only=True)
    matching_rate: float = field(default=0.1, kw_only=True)
    generator_rate: float = field(default=0.01, kw_only=True)
    smoothness: float = field(default=0.1, kw_only=True)
    local_steps: int = field(default=0, kw_only=True)
    embedding_rounds: int = field(default=1, kw_only=True)
    teacher_rounds: int = field(default=0, kw_only=True)
    teacher: str = field(default="scatter_linear", kw_only=True)
    teacher_args: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    teacher_rate: float = field(default=8.0, kw_only=True)
    teacher_momentum: float = field(default=0.9, kw_only=True)
    refinement_rounds: int = field(default=0, kw_only=True)
    network_epochs: int = field(default=30, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("ipc", self.ipc, "10 is usual.")
        if self.partition is not None:
            require_count("partition", self.partition, "1 leaves images whole; 2 makes four of each.")
        if self.pool is not None:
            require_count("pool", self.pool, "1 embeds images as they are.")
        require_count("networks", self.networks, "32 is usual.")
        require_count("matching_steps", self.matching_steps, "1,500 is usual.")
        require_count("local_steps", self.local_steps, "0 starts from noise.", at_least=0, at_most=STEPS)
        require_number("matching_rate", self.matching_rate, 0, math.inf, "a finite number > 0", "0.1 is usual.")
        at_zero = math.nextafter(0, -1)
        require_number("smoothness", self.smoothness, at_zero, math.inf, "a finite number >= 0", "0 leaves it out.")
        require_flag("augment", self.augment)
        require_parametrisation(self.parametrisation, self.generator_rate)
        if self.local_steps and self.parametrisation not in (None, "pixels"):
            raise ConfigurationError(
                f"local_steps = {self.local_steps} with parametrisation = {self.parametrisation!r}",
                "parametrisation = 'pixels'",
                "S starts from images that clients distilled; a generator's latents start from noise.",
            )
        require_number("holders", self.holders, at_zero, math.inf, "a finite number >= 0", "0 leaves nothing out.")
        if self.holders and (self.privacy is None or self.rule.name not in _OF_WHOLE_MESSAGES):
            raise ConfigurationError(
                f"holders = {self.holders} with privacy = {self.privacy} and the rule {self.rule}",
                f"privacy, and one of the rules {_OF_WHOLE_MESSAGES}",
                "Without privacy the rules know who holds a class; by class they would take zeros for messages.",
            )
        for name, least in (("embedding_rounds", 1), ("refinement_rounds", 0)):
            rounds = require_count(name, getattr(self, name), "Rounds share the networks.", at_least=least)
            if rounds and self.networks % rounds:
                raise ConfigurationError(
                    f"{name} = {rounds} with networks = {self.networks}", "a divisor of networks", "Change either."
                )
        require_count("teacher_rounds", self.teacher_rounds, "0 trains none.", at_least=0)
        require_count("network_epochs", self.network_epochs, "30 is usual.")
        # With messages as they may arrive (limits.VALUE) no step can then overflow: the teacher can be kept.
        require_number("teacher_rate", self.teacher_rate, 0, 1e6, "0 < teacher_rate < 10^6", "8 is usual.")
        require_number("teacher_momentum", self.teacher_momentum, at_zero, 1, "0 <= momentum < 1", "0.9 is usual.")
        if self.privacy is not None and self.privacy.max_grad_norm != 1:
            raise ConfigurationError(
                f"max_grad_norm = {self.privacy.max_grad_norm} with CollabDM",
                "1",
                "Embeddings have norm 1 by themselves; another C adds noise, or none of the signal.",
            )
        if self.privacy is not None and self.local_steps:
            raise ConfigurationError(
                f"local_steps = {self.local_steps} with privacy",
                "0",
                "Images distilled at a client would leave it without passing the mechanism.",
            )
        self._spec(1)  # the rest is checked when the specifications are made
        self.teacher_spec  # noqa: B018 - likewise

    def parts(self, info: DatasetInfo) -> int:
        """`partition`, or what it is by default for such images."""
        if self.partition is not None:
            return self.partition
        sides = info.shape[1:]
        return 2 if sides and min(sides) >= 2 * _SMALLEST_PART and not any(side % 2 for side in sides) else 1

    @property
    def rounds(self) -> int:
        """Of all phases together."""
        return self.embedding_rounds + self.teacher_rounds + self.refinement_rounds

    @property
    def matchings(self) -> int:
        """How often S is matched, with `matching_steps` each: at the end, and a first S before rounds of refinement."""
        return 2 if self.refinement_rounds else 1

    def phase(self, t: int) -> tuple[Phase, int]:
        """What round t is for, and which of these rounds it is."""
        if t < self.embedding_rounds:
            return "embedding", t
        t -= self.embedding_rounds
        return ("teacher", t) if t < self.teacher_rounds else ("refinement", t - self.teacher_rounds)

    @property
    def teacher_spec(self) -> ModelSpec:
        """The teacher's registered name with its arguments."""
        return ModelSpec(self.teacher, self.teacher_args)

    def embedding(self, info: DatasetInfo, phase: Phase = "embedding") -> EmbeddingSpec:
        """What the queries of a phase ask for, all together."""
        return self._spec(self.parts(info), phase)

    def asked_in(self, phase: Phase, k: int, info: DatasetInfo) -> EmbeddingSpec:
        """What the k-th query of a phase asks for: its share of the networks."""
        rounds = self.embedding_rounds if phase == "embedding" else self.refinement_rounds
        spec = self.embedding(info, phase)
        return replace(spec, seeds=spec.seeds[k::rounds])

    def _spec(self, parts: int, phase: Phase = "embedding") -> EmbeddingSpec:
        arguments = self.model_args
        if arguments is None:
            arguments = {"width": 32, "depth": 2} if self.model == "convnet" else {}
        purpose = "networks" if phase == "embedding" else phase
        return EmbeddingSpec(
            ModelSpec(self.model, arguments),
            tuple(int(seed) for seed in self.public_rng(purpose).integers(2**62, size=self.networks)),
            parts if self.pool is None else self.pool,
            self.bandwidth,
            self.frequencies,
            self.augment,
        )

    @property
    def steered(self) -> str:
        """See `Method`."""
        return "networks, S's start, order of steps"

    def settings(self) -> dict[str, Any]:
        """See `Method`."""
        return super().settings() | {
            "model_args": dict(self._spec(1).model.arguments),
            "teacher_args": dict(self.teacher_args),
            "rounds": self.rounds,
            "matchings": self.matchings,
        }

    def identity(self) -> dict[str, Any]:
        """The settings but for those that the same messages may be matched with again: all, where S was asked about."""
        free = () if self.refinement_rounds else _FREE
        return {name: value for name, value in super().identity().items() if name not in free}

    def generator(self, info: DatasetInfo) -> Generator | None:
        """What makes S of latents; None for pixels.

        Raises:
            ConfigurationError, ModelError: it cannot make such examples.
        """
        return generator_of(self.parametrisation, "pixels", info, self.public_seed("generator"))

    def schedule(self, client_ids: Sequence[str]) -> list[list[str]]:
        """Everybody, in every round."""
        self.require_rule(len(client_ids))
        return [list(client_ids)] * self.rounds

    def check(self, info: DatasetInfo) -> None:
        """See `Method`."""
        require_partition(self.parts(info), info.shape)
        self.generator(info)
        # As a client will, so that what it would refuse is refused before anybody is asked: later queries, too, for by
        # then earlier ones are paid.
        question = plain_question if self.privacy is None else private_question
        first = self.asked_in("embedding", 0, info).to_json()
        question(self.question, first, {}, info, "cpu")
        usual, cost = ComputeLimits(), EmbeddingSums.cost(first, info)  # whoever takes the first query takes this much
        limits = ComputeLimits(max(usual.memory, cost.memory), max(usual.work, cost.work))
        if self.teacher_rounds:
            spec = self.teacher_spec
            spec.validate(info.shape, info.num_classes)
            weights = spec.build(info.shape, info.num_classes, 0).state_dict()
            question("class_gradients", {"model": spec.to_json(), "granularity": "joint"}, weights, info, "cpu", limits)
        if self.refinement_rounds:
            asked = self.asked_in("refinement", 0, info)
            network = asked.model.build(asked.seen(info), info.num_classes, 0).state_dict()
            if self.networks * len(network) > _MOST_TENSORS:
                raise ConfigurationError(
                    f"networks = {self.networks} of {len(network)} tensors, whose weights are sent",
                    f"at most {_MOST_TENSORS} tensors",
                    "Take fewer networks, or a simpler one.",
                )
            question(self.question, asked.to_json(), weights_of([network] * len(asked.seeds)), info, "cpu", limits)

    def layout(self, run: Run, client_ids: Sequence[str]) -> Layout:
        """See `Method`."""
        info = run.info
        queries = self.rounds + (2 if self.local_steps else 0)  # for a share of S, counts and distillations

        def are_answers(value: Any, progress: Mapping[str, Any]) -> bool:
            return (
                isinstance(value, dict)
                and set(progress["active"]) <= value.keys() <= set(client_ids)
                and all(is_between(count, 0, queries) for count in value.values())
            )

        return Layout(
            run,
            {
                "active": Field("some of the clients, in order", lambda value, _: is_part(value, client_ids)),
                "answered": Field(f"0 ... {queries} messages used, by client", are_answers),
                "rounds": Field(f"1 ... {self.rounds}", lambda value, _: is_between(value, 1, self.rounds)),
            },
            lambda progress: self._state(info, progress["rounds"]),
        )

    def _state(self, info: DatasetInfo, done: int) -> dict[str, Tensor]:
        """What the course keeps after so many rounds."""
        images, classes = (info.num_classes * self.ipc, *info.shape), info.num_classes
        before = self.rounds - self.refinement_rounds
        tensors = prototypes(
            start=images,
            embedding=(classes, min(done, self.embedding_rounds) * self.asked_in("embedding", 0, info).dimension),
        )
        if self.teacher_rounds:
            tensors |= Teacher(
                self.teacher_spec, info, 0, rate=self.teacher_rate, momentum=self.teacher_momentum, device="meta"
            ).keep()
        if self.refinement_rounds and done >= before:
            spec = self.embedding(info, "refinement")
            network = spec.model.build(spec.seen(info), classes, 0).to("meta").state_dict()
            tensors |= {**prototypes(first=images), **named("networks", weights_of([network] * self.networks))}
        if done > before:
            length = self.asked_in("refinement", 0, info).dimension
            tensors |= prototypes(refinement=(classes, (done - before) * length))
        return tensors

    def course(self, started: Started) -> CollabDMCourse:
        """See `Method`."""
        return CollabDMCourse(self, started)
