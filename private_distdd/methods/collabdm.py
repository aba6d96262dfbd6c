"""CollabDM: one-shot collaborative distillation by distribution matching (Holland et al., arXiv 2408.02266)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError
from private_distdd.limits import STEPS
from private_distdd.methods.collabdm_course import CollabDMCourse
from private_distdd.methods.method import Method
from private_distdd.methods.register import register_method
from private_distdd.networks.embedding import EmbeddingSpec
from private_distdd.networks.spec import ModelSpec
from private_distdd.questions.register import plain_question, private_question
from private_distdd.server.layout import Field, Layout, is_between, is_part, prototypes
from private_distdd.server.start import Started
from private_distdd.synthetic.mosaic import require_partition
from private_distdd.validate import require_count, require_flag, require_number
from private_distdd.wire.run import Run

_SMALLEST_PART = 12  # pixels: of digits with 8, parts of 4 showed nothing
_FREE = ("matching_steps", "matching_rate", "smoothness")  # what the same messages may be matched with again


@register_method
@dataclass(frozen=True)
class CollabDM(Method):
    """Distil a federation's data into `ipc` synthetic images a class from one message of each client.

    The server sends the seeds of random networks; a client answers once, with the sums over each class of its images'
    embeddings by all of them; the server then changes the synthetic images S until their mean embeddings match.  A
    message has classes * (2 * frequencies * networks + 1) float32 values, and no weights are sent.

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
        augment: each network sees all images, the clients' and S, under one movement of its own.
        aggregator: see `Method`.
        matching_steps: steps on S, >= 1, each at one network.
        matching_rate: Adam's rate, > 0; it falls along half a cosine to 0.
        smoothness: weight of S's total variation beside the distance, >= 0; keeps S from taking on noise.
        local_steps: without privacy only: clients first distil a share of S from their own data, in so many steps (at
            most 4,096) from mosaics of their real images, and S starts from that (the paper).  0: S starts from noise.
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
    matching_steps: int = field(default=1500, kw_only=True)
    matching_rate: float = field(default=0.1, kw_only=True)
    smoothness: float = field(default=0.1, kw_only=True)
    local_steps: int = field(default=0, kw_only=True)

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
        least = math.nextafter(0, -1)
        require_number("smoothness", self.smoothness, least, math.inf, "a finite number >= 0", "0 leaves it out.")
        require_flag("augment", self.augment)
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
        self._spec(1)  # the rest is checked when the specification is made

    def parts(self, info: DatasetInfo) -> int:
        """`partition`, or what it is by default for such images."""
        if self.partition is not None:
            return self.partition
        sides = info.shape[1:]
        return 2 if sides and min(sides) >= 2 * _SMALLEST_PART and not any(side % 2 for side in sides) else 1

    def embedding(self, info: DatasetInfo) -> EmbeddingSpec:
        """What the query asks for."""
        return self._spec(self.parts(info))

    def _spec(self, parts: int) -> EmbeddingSpec:
        arguments = self.model_args
        if arguments is None:
            arguments = {"width": 32, "depth": 2} if self.model == "convnet" else {}
        return EmbeddingSpec(
            ModelSpec(self.model, arguments),
            tuple(int(seed) for seed in self.public_rng("networks").integers(2**62, size=self.networks)),
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
        return super().settings() | {"model_args": dict(self._spec(1).model.arguments), "rounds": 1}

    def identity(self) -> dict[str, Any]:
        """The settings but for those that the same messages may be matched with again."""
        return {name: value for name, value in super().identity().items() if name not in _FREE}

    def schedule(self, client_ids: Sequence[str]) -> list[list[str]]:
        """Everybody, once."""
        self.require_rule(len(client_ids))
        return [list(client_ids)]

    def check(self, info: DatasetInfo) -> None:
        """See `Method`."""
        require_partition(self.parts(info), info.shape)
        # As a client will, so that a network it would refuse is refused before anybody is asked.
        question = plain_question if self.privacy is None else private_question
        question(self.question, self.embedding(info).to_json(), {}, info, "cpu")

    def layout(self, run: Run, client_ids: Sequence[str]) -> Layout:
        """See `Method`."""
        info = run.info
        queries = 3 if self.local_steps else 1  # embeddings; and for a share of S, counts and distillations

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
            },
            lambda _: prototypes(
                start=(info.num_classes * self.ipc, *info.shape),
                targets=(info.num_classes, self.embedding(info).dimension),
            ),
        )

    def course(self, started: Started) -> CollabDMCourse:
        """See `Method`."""
        return CollabDMCourse(self, started)
