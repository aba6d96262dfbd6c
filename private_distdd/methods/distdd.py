"""DistDD: distributed data distillation by gradient matching (Wang and Wang, arXiv 2410.08665, Algorithm 1)."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from private_distdd.aggregation.rules import require_aggregator
from private_distdd.data.info import DatasetInfo
from private_distdd.engines.in_process import Transport
from private_distdd.errors import ConfigurationError
from private_distdd.limits import EXAMPLES
from private_distdd.matching.gradients import DISTANCES, group_gradients, parameter_shapes
from private_distdd.methods.register import register_method
from private_distdd.networks.loss import loss_sum
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.plan import Privacy, PrivacyPlan
from private_distdd.questions.class_gradients import GRANULARITIES
from private_distdd.questions.register import private_question
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
from private_distdd.validate import require_count, require_number
from private_distdd.wire.message import Message
from private_distdd.wire.query import Query
from private_distdd.wire.run import Run

_log = logging.getLogger("private_distdd")

OPTIMIZERS = ("adam", "sgd")
SCHEDULES = ("constant", "cosine")
NETWORK_UPDATES = ("synthetic", "aggregated")
INITIALIZATIONS = ("noise", "real")
DEFAULT_BATCH_PER_CLASS = 64


@register_method
@dataclass(frozen=True)
class DistDD:
    """Distil a federation's data into `ipc` synthetic images a class by matching class gradients.

    Each round the server sends network weights theta_t, the clients answer with their class gradients, and the server
    changes the synthetic images S so that S's gradients match.  Symbols are those of the paper.

    Args:
        ipc: images per class of S, >= 1.
        rounds: T, communication rounds, >= 1.
        model: the registered network whose gradients are matched.
        model_args: its arguments.
        participation: share of clients asked each round (the paper's delta), in (0, 1]; drawn from the public seed
            beforehand.  It does not amplify privacy; it lowers the number of queries a client answers.
        aggregator: "mean", "sum", "median" or "trimmed_mean" of the messages; `trim` is the latter's share.
        granularity: "class": one gradient a class (the paper); "joint": one in all (as PSG).  One event either way.
        distance: "cosine" of whole gradients, "layer_cosine" (DC's, by layer and output row) or "squared_l2" (eq. 27).
        matching_steps: zeta_S, steps on S a round, >= 1.
        matching_rate: eta_S, their rate, > 0.
        matching_schedule: "constant" rate, or "cosine": it falls along half a cosine to 0 at the last planned step.
        matching_optimizer: "adam", or "sgd" (momentum 0.5, as DC).
        memory: how many of the newest rounds' messages the steps may use, >= 1: the first step of a round matches the
            newest, each other one a random one of these.  1 is the paper; more is free post-processing.
        network_steps: zeta_theta, steps on the network a round, >= 0.
        network_rate: eta_theta, their rate, > 0.
        network_update: "synthetic": SGD on S (eq. 7); "aggregated": one step along the aggregated gradient (line 20).
        reinit_every: rounds after which the network is drawn anew, >= 1, or None for never (the paper).
        initialization: S starts from "noise" (standard normal) or, without privacy only, from "real" images.
        batch_per_class: without privacy only: |B_c|, real examples of each class a round, over all clients together,
            drawn without replacement as if the data were in one place (default 64).  With privacy, q decides.
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
    participation: float = field(default=1.0, kw_only=True)
    aggregator: str = field(default="mean", kw_only=True)
    trim: float = field(default=0.1, kw_only=True)
    granularity: str = field(default="class", kw_only=True)
    distance: str = field(default="cosine", kw_only=True)
    matching_steps: int = field(default=10, kw_only=True)
    matching_rate: float = field(default=0.1, kw_only=True)
    matching_schedule: str = field(default="cosine", kw_only=True)
    matching_optimizer: str = field(default="adam", kw_only=True)
    memory: int = field(default=20, kw_only=True)
    network_steps: int = field(default=10, kw_only=True)
    network_rate: float = field(default=0.1, kw_only=True)
    network_update: str = field(default="synthetic", kw_only=True)
    reinit_every: int | None = field(default=5, kw_only=True)
    initialization: str = field(default="noise", kw_only=True)
    batch_per_class: int | None = field(default=None, kw_only=True)
    privacy: Privacy | None = field(default=None, kw_only=True)
    device: str = field(default="cpu", kw_only=True)
    seed: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        require_count("ipc", self.ipc, "10 is usual.")
        require_count("rounds", self.rounds, "100 is usual without privacy.")
        require_count("matching_steps", self.matching_steps, "Take at least one step on S a round.")
        require_count("memory", self.memory, "1 matches the newest messages only.")
        require_count("network_steps", self.network_steps, "0 leaves the network as it is.", at_least=0)
        require_count("seed", self.seed, "Any whole number from 0 on.", at_least=0)
        if self.reinit_every is not None:
            require_count("reinit_every", self.reinit_every, "None never draws the network anew.")
        for name in ("matching_rate", "network_rate"):
            require_number(name, getattr(self, name), 0, math.inf, "a finite number > 0", "0.1 or 0.01 is usual.")
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
            ("initialization", INITIALIZATIONS),
        ):
            if getattr(self, name) not in options:
                raise ConfigurationError(f"{name} = {getattr(self, name)!r}", f"one of {options}", "Choose one.")
        if self.network_update == "aggregated" and self.network_steps > 1:
            raise ConfigurationError(
                f"network_steps = {self.network_steps} with network_update = 'aggregated'",
                "0 or 1",
                "One aggregated gradient is one step (line 20).",
            )
        require_aggregator(self.aggregator, math.inf, self.trim)
        if self.privacy is not None and not isinstance(self.privacy, Privacy):
            raise ConfigurationError(f"privacy = {self.privacy!r}", "a Privacy, or None", "Pass Privacy(...).")
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
    def spec(self) -> ModelSpec:
        """The network's registered name with its arguments."""
        return ModelSpec(self.model, self.model_args)

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
        """Run the federation and return the release.

        Ctrl-C ends the run cleanly: the release holds S as it is and the true bill.  With a checkpoint the run can go
        on from the last whole round, after Ctrl-C as after a crash.

        Args:
            clients: the data owners, or a transport that reaches them.
            info: public class list, image shape and normalisation; needed where the clients' data sets carry none.
            progress: show a bar with round, matching loss, epsilon so far and time left.
            on_round_end: called after each round with public values only.  An exception from it ends the run without a
                release, and what was paid stays paid; with a checkpoint the run can go on.
            checkpoint: a folder that keeps the state after every round; the clients' ledgers, which must outlive the
                process too (`Ledger(path)`), are their own.
            resume: go on with the run whose checkpoint lies there, with the same settings and clients; a run that had
                ended gives its release again.

        Returns:
            the release; `release.dataset` is S.

        Raises:
            ConfigurationError: too few clients for the participation or the aggregator, no info, or an epsilon that
                cannot be reached.
            QueryRefusedError: no client agrees to the run.
            ModelError: the network is not registered, or breaks an assumption of the theorem.
            DataError: a client's data does not fit the `info` given.
            CheckpointError: the folder holds a checkpoint already, or, to resume, none, a damaged one, one of another
                run, or one whose messages the clients' ledgers do not know.  Nothing is spent.  Or it cannot be
                written; the round before is then still whole.

        Formal guarantee: killed at any instant, any number of times, and resumed each time, the run uses no message
        twice and no client sends two messages for a round.  For (1) the run is written down before any client is asked
        to agree to it, so that all its processes share one run_id, one pin in each ledger and one T_max.  (2) The
        checkpoint after round t - 1 holds an S that has used every message of the rounds before t once and none of
        round t; what a killed process did in round t is gone with it.  (3) The queries of round t follow from that
        checkpoint and public seeds, so every process asks them with the same bytes.  (4) So a client whose message of
        round t is sealed sends the stored bytes, free of charge; any other is charged now, also one that was charged
        before and had not sealed: that its computation did not end may depend on its data.  The checkpoint is durable
        before round t + 1 is asked, so the one message that a client stores is the one that can still be wanted.

        Three damages cost a charge more, never a release less on the bill: a computation that did not end, a torn
        ledger line, and a lost store of a sealed message.  Charges past T_max are refused in any case, so such a client
        leaves before the last round; clients trust their ledgers, not the checkpoint.
        """
        opened = open_run(
            clients,
            info,
            method="DistDD",
            settings=self._settings(),
            plan=lambda client_ids: self._plan(self._schedule(client_ids)),
            check=self._check,
            form=self._form,
            device=self.device,
            checkpoint=checkpoint,
            resume=resume,
        )
        asked = self._schedule(opened.client_ids)
        return _Distillation(self, opened, asked).run(progress, on_round_end)

    def _settings(self) -> dict[str, Any]:
        return asdict(self) | {"model_args": dict(self.model_args)}

    def _check(self, info: DatasetInfo) -> None:
        self.spec.validate(info.shape, info.num_classes)
        if self.privacy is None:
            return
        # As a client will, so that a network it would refuse is refused before anybody is asked.
        state = self.spec.build(info.shape, info.num_classes, seed=0).state_dict()
        arguments = {"model": self.spec.to_json(), "granularity": self.granularity}
        private_question("class_gradients", arguments, state, info, "cpu")

    def _form(self, run: Run, client_ids: Sequence[str]) -> Form:
        """What `_Distillation._keep` writes in this run."""
        info, asked = run.info, self._schedule(client_ids)
        shape = (info.num_classes * self.ipc, *info.shape)
        fresh = self.spec.build(info.shape, info.num_classes)
        network = _named("network", {name: value.to("meta") for name, value in fresh.state_dict().items()})
        # Without privacy clients are asked for their counts, and perhaps for real images to start from, beforehand.
        before = 0 if run.plan is not None else 1 + (self.initialization == "real")

        def are_answers(value: Any, progress: Mapping[str, Any]) -> bool:
            if not isinstance(value, dict) or not set(progress["active"]) <= value.keys() <= set(client_ids):
                return False
            played = [client_id for round_ in asked[: progress["rounds"]] for client_id in round_]
            return all(is_whole(count, 0, before + played.count(client_id)) for client_id, count in value.items())

        def are_counts(value: Any, progress: Mapping[str, Any]) -> bool:
            if run.plan is not None:
                return value is None
            active, answered = set(progress["active"]), progress["answered"].keys()
            if not isinstance(value, dict) or not active <= value.keys() <= answered:
                return False
            rows = list(value.values())
            if not all(isinstance(row, list) and len(row) == info.num_classes for row in rows):
                return False
            fair = all(is_whole(count, 0, EXAMPLES) for row in rows for count in row)
            return fair and all(sum(column) <= EXAMPLES for column in zip(*rows, strict=True))

        def state(progress: Mapping[str, Any]) -> dict[str, Tensor]:
            tensors = {**prototypes(images=shape), **network}
            if progress["steps"] and self.matching_optimizer == "adam":
                step = torch.tensor(float(min(progress["steps"], 1 << 24)))  # float32 counts no further
                tensors |= _named("optimizer", {"step": step, **prototypes(exp_avg=shape, exp_avg_sq=shape)})
            elif progress["steps"]:
                tensors |= _named("optimizer", prototypes(momentum_buffer=shape))
            return tensors

        groups = info.num_classes if self.granularity == "class" else 1
        length = sum(p.numel() for p in fresh.parameters() if p.requires_grad)
        return Form(
            run,
            {
                "rounds": Field(f"0 ... {self.rounds}", lambda value, _: is_whole(value, 0, self.rounds)),
                "steps": Field(
                    f"{self.matching_steps} for each round in which somebody answered",
                    lambda value, progress: (
                        is_whole(value, 0, progress["rounds"] * self.matching_steps) and not value % self.matching_steps
                    ),
                ),
                "started": Field(
                    "true, or false before the first round",
                    lambda value, progress: isinstance(value, bool) and (value or not progress["rounds"]),
                ),
                "active": Field("some of the clients, in order", lambda value, _: is_part(value, client_ids)),
                "answered": Field("messages used, by client, no more than it was asked for", are_answers),
                "class_counts": Field(
                    "null with privacy; else by client how many examples of each class it holds", are_counts
                ),
            },
            state,
            lambda progress: min(progress["steps"] // self.matching_steps, self.memory),
            {**prototypes(target=(groups, length)), **network},
        )

    def _schedule(self, client_ids: Sequence[str]) -> list[list[str]]:
        """Who is asked in each round: drawn beforehand from the public seed, so that T_max is known."""
        size = round(self.participation * len(client_ids))
        if size < 1:
            raise ConfigurationError(
                f"participation = {self.participation} of {len(client_ids)} clients",
                f"at least {1 / len(client_ids):.3g}, so that a round asks somebody",
                "Ask a larger share.",
            )
        require_aggregator(self.aggregator, size, self.trim)
        rng = self._rng("participation")
        return [[client_ids[i] for i in sorted(rng.permutation(len(client_ids))[:size])] for _ in range(self.rounds)]

    def _plan(self, asked: Sequence[Sequence[str]]) -> PrivacyPlan | None:
        if self.privacy is None:
            return None
        everyone = {client_id for round_ in asked for client_id in round_}
        return self.privacy.plan(max(sum(client_id in round_ for round_ in asked) for client_id in everyone))

    def _rng(self, *purpose: str | int) -> np.random.Generator:
        return public_rng(self.seed, *purpose)

    def _seed(self, *purpose: str | int) -> int:
        return int(self._rng(*purpose).integers(2**62))


class _Remembered(NamedTuple):
    """One round that may be matched again: its network and the aggregate of its messages."""

    server_round: int
    network: nn.Module
    target: Tensor


class _Distillation:
    """One run's state and its rounds."""

    def __init__(self, method: DistDD, opened: Opened, asked: Sequence[Sequence[str]]) -> None:
        self.method, self.session, self.asked, self.folder = method, opened.session, asked, opened.folder
        self.info = self.session.run.info
        self.class_counts: dict[str, list[int]] | None = None
        self.labels = torch.arange(self.info.num_classes).repeat_interleave(method.ipc)
        self.images = torch.zeros(len(self.labels), *self.info.shape, device=method.device, requires_grad=True)
        self.started = False  # has S its first images?
        self.optimizer = self._optimizer()
        self.network = self._fresh_network(0)
        self.memory: list[_Remembered] = []
        self.rounds_done = self.rounds_finished = self.steps_done = 0
        if opened.saved.progress:
            self._restore(opened.saved)
        self._prepare()

    def run(self, progress: bool, on_round_end: Callable[[RoundRecord], None] | None) -> Release:
        shown = progress_bar(self.method.rounds, self.session.run.plan, unit="round", shown=progress)
        with shown as bar, contextlib.suppress(KeyboardInterrupt):
            while self.rounds_done < self.method.rounds and self.session.active:
                record = self._round(self.rounds_done)
                bar(record.server_round, record)
                if on_round_end is not None:
                    on_round_end(record)
            if not self.session.active:
                _log.warning("no client is left: the run ends after round %d", self.rounds_done)
        return self._release()

    def _prepare(self) -> None:
        """What the first round needs: each is asked for once, and kept before the next is asked for."""
        if self.session.run.plan is None and self.class_counts is None:
            self.class_counts = self.session.class_counts(self.method.rounds)
            self._keep()
        if not self.started:
            with torch.no_grad():
                self.images.copy_(self._start())
            self.started = True
            self._keep()

    def _round(self, t: int) -> RoundRecord:
        method = self.method
        if method.reinit_every is not None and t % method.reinit_every == 0:
            self.network = self._fresh_network(t)
        self.rounds_done = t + 1  # from here on its messages may be used, should it be interrupted
        groups = self.info.num_classes if method.granularity == "class" else 1
        shape = (groups, sum(size.numel() for size in parameter_shapes(self.network)))
        messages = self.session.ask(self.asked[t], self._queries(t), lambda client_id: shape)
        loss = math.nan
        if messages:
            target = self._aggregate(messages)
            self.memory = [*self.memory, _Remembered(t, copy.deepcopy(self.network), target)][-method.memory :]
            loss = self._match(t)
            self._update_network(target)
        self.rounds_finished = t + 1
        self._keep()
        answered = tuple(message.client_id for message in messages)
        return RoundRecord(t + 1, method.rounds, loss, self.session.epsilon(), answered)

    def _keep(self) -> None:
        """Write the checkpoint: everything that `_restore` and the seeds do not make anew."""
        if self.folder is None:
            return
        progress = {
            "active": self.session.active,
            "answered": self.session.answered,
            "class_counts": self.class_counts,
            "started": self.started,
            "rounds": self.rounds_finished,
            "steps": self.steps_done,
        }
        optimizer = self.optimizer.state_dict()["state"].get(0, {})  # nothing before the first step
        network = _named("network", self.network.state_dict())
        state = {"images": self.images, **network, **_named("optimizer", optimizer)}
        memory = {
            t: {"target": target, **_named("network", remembered.state_dict())} for t, remembered, target in self.memory
        }
        self.folder.write(Checkpoint(self.session.run, progress, state, memory))

    def _restore(self, saved: Checkpoint) -> None:
        progress, state = saved.progress, saved.state
        self.class_counts, self.started = progress["class_counts"], progress["started"]
        self.rounds_done = self.rounds_finished = progress["rounds"]
        self.steps_done = progress["steps"]
        with torch.no_grad():
            self.images.copy_(state["images"])
        if optimizer := _unnamed("optimizer", state):
            groups = self.optimizer.state_dict()["param_groups"]  # they follow from the settings
            self.optimizer.load_state_dict({"state": {0: optimizer}, "param_groups": groups})
        self.network.load_state_dict(_unnamed("network", state))
        for t, tensors in sorted(saved.memory.items()):
            network = self._fresh_network(t)
            network.load_state_dict(_unnamed("network", tensors))
            self.memory.append(_Remembered(t, network, tensors["target"].to(self.method.device)))

    def _queries(self, t: int) -> Callable[[str], Query]:
        method, run = self.method, self.session.run
        arguments = {"model": method.spec.to_json(), "granularity": method.granularity}
        weights = {name: value.detach().cpu() for name, value in self.network.state_dict().items()}
        batches = self._batches(t, self.asked[t], method.batch_per_class or DEFAULT_BATCH_PER_CLASS)
        seed = method._seed("batch", t)
        everyone = Query(run.run_id, t, "class_gradients", arguments, weights, run.plan)
        if batches is None:
            return lambda client_id: everyone
        return lambda client_id: Query(
            run.run_id, t, "class_gradients", arguments, weights, None, (batches[client_id], seed)
        )

    def _batches(self, t: int, client_ids: Sequence[str], per_class: int) -> dict[str, tuple[int, ...]] | None:
        """Without privacy: how many examples of each class each client draws, as if all data were in one place."""
        counts = self.class_counts
        if counts is None:
            return None
        holders = [client_id for client_id in client_ids if client_id in self.session.active]
        return allocate(counts, holders, per_class, self.method._rng("allocation", t))

    def _aggregate(self, messages: Sequence[Message]) -> Tensor:
        method = self.method
        # Clients that left may have made the round too small to trim or take a median: the mean of the rest then.
        aggregator = require_aggregator(method.aggregator, len(self.asked[0]), method.trim)
        values, counts = stack(messages)
        return aggregator(values, counts).to(method.device)

    def _match(self, t: int) -> float:
        """zeta_S steps on S; returns their mean distance."""
        method, total = self.method, 0.0
        rng = method._rng("memory", t)
        for step in range(method.matching_steps):
            _, network, target = self.memory[-1 if step == 0 else int(rng.integers(len(self.memory)))]
            loss = self._distance(network, target)
            self.optimizer.zero_grad(set_to_none=True)
            (self.images.grad,) = torch.autograd.grad(loss, [self.images])
            self.optimizer.param_groups[0]["lr"] = self._rate()
            self.optimizer.step()
            self.steps_done += 1
            total += float(loss.detach())
        return total / method.matching_steps

    def _distance(self, network: nn.Module, target: Tensor) -> Tensor:
        """Distance between S's gradients and the target at one network, summed over the groups; differentiable in S."""
        distance = DISTANCES[self.method.distance]
        groups = (len(target), -1)  # each class, or everything
        images = self.images.reshape(*groups, *self.info.shape)
        gradients = group_gradients(network, images, self.labels.reshape(groups).to(self.images.device))
        return distance(gradients, target, parameter_shapes(network))

    def _rate(self) -> float:
        """The rate of the next matching step."""
        if self.method.matching_schedule == "constant":
            return self.method.matching_rate
        share = self.steps_done / (self.method.rounds * self.method.matching_steps)
        return self.method.matching_rate * (1 + math.cos(math.pi * share)) / 2

    def _update_network(self, target: Tensor) -> None:
        method = self.method
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        for _ in range(method.network_steps):
            if method.network_update == "synthetic":
                images, labels = self.images.detach(), self.labels.to(method.device)
                step = torch.autograd.grad(loss_sum(self.network, images, labels) / len(labels), parameters)
            else:
                flat = target.mean(dim=0)
                step = tuple(
                    part.reshape(p.shape)
                    for part, p in zip(torch.split(flat, [p.numel() for p in parameters]), parameters, strict=True)
                )
            with torch.no_grad():
                for parameter, gradient in zip(parameters, step, strict=True):
                    parameter.sub_(gradient, alpha=method.network_rate)

    def _fresh_network(self, t: int) -> nn.Module:
        shape, classes = self.info.shape, self.info.num_classes
        return self.method.spec.build(shape, classes, self.method._seed("network", t)).to(self.method.device)

    def _start(self) -> Tensor:
        method = self.method
        shape = (len(self.labels), *self.info.shape)
        if method.initialization == "noise":
            return torch.from_numpy(method._rng("images").standard_normal(shape, dtype=np.float32))
        # Real images come by a query of their own, numbered after the last; runs without privacy only.
        clients = list(self.session.active)
        batches = self._batches(method.rounds, clients, method.ipc) or {}
        seed = method._seed("start")
        messages = self.session.ask(
            clients,
            lambda client_id: Query(
                self.session.run.run_id,
                method.rounds + 1,
                "class_examples",
                {"counts": list(batches[client_id])},
                {},
                None,
                (batches[client_id], seed),
            ),
            lambda client_id: (sum(batches[client_id]), math.prod(self.info.shape)),
        )
        labels = np.concatenate([np.repeat(np.arange(self.info.num_classes), batches[m.client_id]) for m in messages])
        order = np.argsort(labels, kind="stable")
        if not np.array_equal(labels[order], self.labels.numpy()):
            raise ConfigurationError(
                f"initialization = 'real' with ipc = {method.ipc}",
                "no more images per class than the federation holds of its rarest class",
                "Start from noise, or lower ipc.",
            )
        return torch.cat([message.values for message in messages])[torch.from_numpy(order)].reshape(shape)

    def _optimizer(self) -> torch.optim.Optimizer:
        if self.method.matching_optimizer == "adam":
            return torch.optim.Adam([self.images], lr=self.method.matching_rate)
        return torch.optim.SGD([self.images], lr=self.method.matching_rate, momentum=0.5)

    def _release(self) -> Release:
        method, session = self.method, self.session
        accounts = session.accounts()
        return build_sound_release(
            SyntheticDataset(presentable(self.images), self.labels, self.info),
            session.run,
            accounts.ledgers,
            method="DistDD",
            settings=method._settings(),
            seeds=(
                f"public seed {method.seed}: S's start, networks, participation, draws without privacy; "
                "noise and coins: each client's operating system, not reproducible"
            ),
            progress={
                "rounds_planned": method.rounds,
                "rounds_done": self.rounds_done,
                "matching_steps": self.steps_done,
                "stopped_early": self.rounds_finished < method.rounds,
            },
            messages=session.answered,
            unaccounted=accounts.unaccounted,
        )


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def _unnamed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}/")}
