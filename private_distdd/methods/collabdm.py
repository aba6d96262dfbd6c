"""CollabDM: one-shot collaborative distillation by distribution matching (Holland et al., arXiv 2408.02266)."""

from __future__ import annotations

import contextlib
import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from private_distdd.aggregation.rules import require_aggregator
from private_distdd.data.info import DatasetInfo
from private_distdd.engines.in_process import Transport
from private_distdd.errors import ConfigurationError, QueryRefusedError
from private_distdd.limits import STEPS
from private_distdd.matching.means import class_means, match_means
from private_distdd.methods.register import register_method
from private_distdd.networks.embedding import EmbeddingSpec
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.plan import Privacy, PrivacyPlan
from private_distdd.questions.class_embeddings import ClassEmbeddings
from private_distdd.questions.register import plain_question, private_question
from private_distdd.release.build import build_sound_release
from private_distdd.release.release import Release
from private_distdd.server.allocation import allocate, stack
from private_distdd.server.form import Field, Form, is_part, is_whole, prototypes
from private_distdd.server.progress import progress_bar
from private_distdd.server.record import RoundRecord
from private_distdd.server.start import Opened, open_run, public_rng
from private_distdd.server.state import Checkpoint
from private_distdd.site.client import Client
from private_distdd.synthetic.dataset import SyntheticDataset, presentable
from private_distdd.synthetic.mosaic import require_partition
from private_distdd.validate import require_count, require_number
from private_distdd.wire.message import Message
from private_distdd.wire.query import Query
from private_distdd.wire.run import Run

_SMALLEST_PART = 12  # pixels: of digits with 8, parts of 4 showed nothing
_FREE = ("matching_steps", "matching_rate", "smoothness")  # what the same messages may be matched with again
_SHOWN = 50  # steps between two lines of progress, which shows their mean loss


@register_method
@dataclass(frozen=True)
class CollabDM:
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
        aggregator: "mean", "sum", "median" or "trimmed_mean" of the messages; `trim` is the latter's share.
        matching_steps: steps on S, >= 1, each at one network.
        matching_rate: Adam's rate, > 0; it falls along half a cosine to 0.
        smoothness: weight of S's total variation beside the distance, >= 0; keeps S from taking on noise.
        local_steps: without privacy only: clients first distil a share of S from their own data, in so many steps (at
            most 4,096) from mosaics of their real images, and S starts from that (the paper).  0: S starts from noise.
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
    aggregator: str = field(default="mean", kw_only=True)
    trim: float = field(default=0.1, kw_only=True)
    matching_steps: int = field(default=1500, kw_only=True)
    matching_rate: float = field(default=0.1, kw_only=True)
    smoothness: float = field(default=0.1, kw_only=True)
    local_steps: int = field(default=0, kw_only=True)
    privacy: Privacy | None = field(default=None, kw_only=True)
    device: str = field(default="cpu", kw_only=True)
    seed: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        require_count("ipc", self.ipc, "10 is usual.")
        if self.partition is not None:
            require_count("partition", self.partition, "1 leaves images whole; 2 makes four of each.")
        if self.pool is not None:
            require_count("pool", self.pool, "1 embeds images as they are.")
        require_count("networks", self.networks, "32 is usual.")
        require_count("matching_steps", self.matching_steps, "1,500 is usual.")
        require_count("local_steps", self.local_steps, "0 starts from noise.", at_least=0, at_most=STEPS)
        require_count("seed", self.seed, "Any whole number from 0 on.", at_least=0)
        require_number("matching_rate", self.matching_rate, 0, math.inf, "a finite number > 0", "0.1 is usual.")
        least = math.nextafter(0, -1)
        require_number("smoothness", self.smoothness, least, math.inf, "a finite number >= 0", "0 leaves it out.")
        if not isinstance(self.augment, bool):
            raise ConfigurationError(f"augment = {self.augment!r}", "True or False", "Choose one.")
        require_aggregator(self.aggregator, math.inf, self.trim)
        if self.privacy is not None and not isinstance(self.privacy, Privacy):
            raise ConfigurationError(f"privacy = {self.privacy!r}", "a Privacy, or None", "Pass Privacy(...).")
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
            tuple(int(seed) for seed in public_rng(self.seed, "networks").integers(2**62, size=self.networks)),
            parts if self.pool is None else self.pool,
            self.bandwidth,
            self.frequencies,
            self.augment,
        )

    def fit(
        self,
        clients: Sequence[Client] | Transport,
        *,
        info: DatasetInfo | None = None,
        progress: bool = False,
        on_round_end: Callable[[RoundRecord], None] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
    ) -> Release:
        """Ask every client once, match, and return the release.

        Ctrl-C while clients are asked leaves out the others, and goes on with the messages that came.  Ctrl-C while S
        is matched ends the run: the release holds S as it is and the true bill.

        Args:
            clients: the data owners, or a transport that reaches them.
            info: public class list, image shape and normalisation; needed where the clients' data sets carry none.
            progress: show a bar with steps, matching loss, epsilon and time left.
            on_round_end: called once, when S is done, with public values only.
            checkpoint: a folder that keeps the aggregated messages, so that S can be matched again.
            resume: go on with the run whose checkpoint lies there, with the same clients and settings, but for
                `matching_steps`, `matching_rate` and `smoothness`: with privacy no client is charged again.

        Returns:
            the release; `release.dataset` is S.

        Raises:
            ConfigurationError: too few clients for the aggregator, no info, a partition or pool that does not divide
                the images, or an epsilon that cannot be reached.
            QueryRefusedError: no client agrees to the run, or none answers.
            ModelError: the network is not registered, breaks an assumption of the theorem, or does not end in a linear
                layer.
            DataError: a client's data does not fit the `info` given.
            CheckpointError: see `DistDD.fit`.
        """
        opened = open_run(
            clients,
            info,
            method="CollabDM",
            settings={name: value for name, value in self._settings().items() if name not in _FREE},
            plan=self._plan,
            check=self._check,
            form=self._form,
            device=self.device,
            checkpoint=checkpoint,
            resume=resume,
        )
        return _Matching(self, opened).run(progress, on_round_end)

    def _settings(self) -> dict[str, Any]:
        return asdict(self) | {"model_args": dict(self._spec(1).model.arguments), "rounds": 1}

    def _plan(self, client_ids: Sequence[str]) -> PrivacyPlan | None:
        require_aggregator(self.aggregator, len(client_ids), self.trim)
        return None if self.privacy is None else self.privacy.plan(1)

    def _check(self, info: DatasetInfo) -> None:
        require_partition(self.parts(info), info.shape)
        # As a client will, so that a network it would refuse is refused before anybody is asked.
        question = plain_question if self.privacy is None else private_question
        question("class_embeddings", self.embedding(info).to_json(), {}, info, "cpu")

    def _form(self, run: Run, client_ids: Sequence[str]) -> Form:
        """What `_Matching._asked` writes in this run."""
        info = run.info
        queries = 3 if self.local_steps else 1  # embeddings; and for a share of S, counts and distillations

        def are_answers(value: Any, progress: Mapping[str, Any]) -> bool:
            return (
                isinstance(value, dict)
                and set(progress["active"]) <= value.keys() <= set(client_ids)
                and all(is_whole(count, 0, queries) for count in value.values())
            )

        return Form(
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


class _Matching:
    """One run: its one query, and the steps on S."""

    def __init__(self, method: CollabDM, opened: Opened) -> None:
        self.method, self.opened, self.session = method, opened, opened.session
        self.info = self.session.run.info
        self.spec, self.parts = method.embedding(self.info), method.parts(self.info)
        self.labels = torch.arange(self.info.num_classes).repeat_interleave(method.ipc)
        self.images = self._noise()  # what is released if nothing more comes
        self.steps_done, self.loss, self.interrupted = 0, math.nan, False

    def run(self, progress: bool, on_round_end: Callable[[RoundRecord], None] | None) -> Release:
        method = self.method
        shown = progress_bar(method.matching_steps, self.session.run.plan, unit="step", shown=progress)
        with shown as bar, contextlib.suppress(KeyboardInterrupt):
            state = self._asked()
            self.images = state["start"].to(method.device)
            if "targets" in state:
                self._match(state["targets"], lambda: bar(self.steps_done, self._record()))
        if on_round_end is not None:
            with contextlib.suppress(KeyboardInterrupt):  # what was paid for is released in any case
                on_round_end(self._record())
        return self._release()

    def _asked(self) -> Mapping[str, Tensor]:
        """What clients are asked for: "targets", their messages as one, float32 [classes, dimension], and S's "start".

        There are no targets where the first client's answer was interrupted.
        """
        saved, folder = self.opened.saved, self.opened.folder
        if saved.progress:
            return saved.state
        method, run = self.method, self.session.run
        query = Query(run.run_id, 0, "class_embeddings", self.spec.to_json(), {}, run.plan)
        shape = (self.info.num_classes, self.spec.dimension)
        messages: list[Message] = []
        try:
            for client_id in list(self.session.active):
                messages += self.session.ask([client_id], lambda client_id: query, lambda client_id: shape)
        except KeyboardInterrupt:
            self.interrupted = True
        if not messages and not self.interrupted:
            raise QueryRefusedError(
                "a query that no client answers",
                "at least one client that can",
                "Each client's own log (private_distdd_client.<id>) says why it did not.",
            )
        state = {"start": self._distilled() if method.local_steps and not self.interrupted else self._noise()}
        if messages:
            aggregator = require_aggregator(method.aggregator, len(self.opened.client_ids), method.trim)
            state["targets"] = aggregator(*stack(messages))
        if folder is not None and not self.interrupted:  # else all are asked again, and sealed messages come back free
            progress = {"active": self.session.active, "answered": self.session.answered}
            folder.write(Checkpoint(run, progress, state))
        return state

    def _noise(self) -> Tensor:
        shape = (len(self.labels), *self.info.shape)
        return torch.from_numpy(public_rng(self.method.seed, "images").standard_normal(shape, dtype=np.float32))

    def _distilled(self) -> Tensor:
        """Without privacy: what the clients distilled from their own data, in its classes' places."""
        method, run = self.method, self.session.run
        counts = self.session.class_counts(1)
        holders = [client_id for client_id in self.session.active if client_id in counts]
        shares = allocate(counts, holders, method.ipc, public_rng(method.seed, "allocation"))
        arguments = {
            "embedding": self.spec.to_json(),
            "partition": self.parts,
            "steps": method.local_steps,
            "rate": method.matching_rate,
            "smoothness": method.smoothness,
            "seed": int(public_rng(method.seed, "local").integers(2**62)),
        }
        messages = self.session.ask(
            holders,
            lambda client_id: Query(
                run.run_id, 2, "class_distillations", {**arguments, "counts": list(shares[client_id])}, {}, None
            ),
            lambda client_id: (sum(shares[client_id]), math.prod(self.info.shape)),
        )
        start, filled = self._noise(), [0] * self.info.num_classes
        for message in messages:
            labels = np.repeat(np.arange(self.info.num_classes), shares[message.client_id]).tolist()
            for label, image in zip(labels, message.values.reshape(-1, *self.info.shape), strict=True):
                start[label * method.ipc + filled[label]] = image
                filled[label] += 1
        return start  # noise still where the clients hold too few images

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
            rng=public_rng(method.seed, "order"),
            report=report,
        )

    def _record(self) -> RoundRecord:
        answered = tuple(client_id for client_id, count in self.session.answered.items() if count)
        return RoundRecord(1, 1, self.loss, self.session.epsilon(), answered)

    def _release(self) -> Release:
        method, session = self.method, self.session
        accounts = session.accounts()
        return build_sound_release(
            SyntheticDataset(presentable(self.images), self.labels, self.info, self.parts),
            session.run,
            accounts.ledgers,
            method="CollabDM",
            settings=method._settings() | {"partition": self.parts},
            seeds=(
                f"public seed {method.seed}: networks, S's start, order of steps; "
                "noise and coins: each client's operating system, not reproducible"
            ),
            progress={
                "rounds_planned": 1,
                "rounds_done": 1,
                "matching_steps": self.steps_done,
                "stopped_early": self.interrupted or self.steps_done < method.matching_steps,
            },
            messages=session.answered,
            unaccounted=accounts.unaccounted,
        )
