"""The client: charged before anything exists, refuses for nothing, and says nothing about its data."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.utils.data import Subset, TensorDataset

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.errors import (
    BudgetExceededError,
    ComputationError,
    ConfigurationError,
    DataError,
    ModelError,
    PrivateDistDDError,
    QueryRefusedError,
)
from private_distdd.limits import ComputeLimits
from private_distdd.networks.register import register_model
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.events import Composition, NotPrivate, SampledGaussian
from private_distdd.privacy.ledger import Budget, Ledger, Pin
from private_distdd.privacy.mechanism import SampledGaussianMechanism
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.privacy.randomness import InsecureRandomness, Stream, SystemRandomness
from private_distdd.questions import register
from private_distdd.questions.class_gradients import ClassGradients
from private_distdd.site import client as client_module
from private_distdd.site import outbox as outbox_module
from private_distdd.site.client import Client
from private_distdd.site.outbox import Outbox
from private_distdd.wire.message import Message
from private_distdd.wire.query import Query
from private_distdd.wire.run import Run

ALPHA = 1e-7
PLAN = PrivacyPlan(2.0, 0.5, 1.0, 4.0, 5, 1e-5)
SPEC = ModelSpec("mlp", {"width": 8, "depth": 1})
SHAPE = (1, 8, 8)
MakeImages = Callable[..., ImageDataset]


@pytest.fixture
def run(tiny_info: DatasetInfo) -> Run:
    return Run("run-1", tiny_info, PLAN)


def query(run: Run, server_round: int = 0, *, seed: int = 0, **changes: Any) -> Query:
    weights = dict(SPEC.build(SHAPE, 3, seed).state_dict())
    values: dict[str, Any] = {
        "run_id": run.run_id,
        "server_round": server_round,
        "question": "class_gradients",
        "arguments": {"model": SPEC.to_json(), "granularity": "class"},
        "tensors": weights,
        "plan": run.plan,
    }
    return Query(**(values | changes))


@pytest.fixture
def client(make_images: MakeImages, run: Run) -> Client:
    own = Client("clinic", make_images(12))
    own.enroll(run)
    return own


def charges(ledger: Ledger) -> list[Any]:
    return list(ledger.events)


# What is charged, and when


def test_an_answer_costs_one_event(client: Client, run: Run) -> None:
    message = client.answer(query(run))
    assert charges(client.ledger) == [SampledGaussian(2.0, 0.5)]
    assert message.values.shape == (3, 64 * 8 + 8 + 8 * 3 + 3)
    assert message.values.dtype == torch.float32
    assert message.counts is None
    assert (message.client_id, message.message_id) == ("clinic", "run-1:000000")
    assert client.ledger.status(message.message_id) == "sealed"


def test_the_charge_is_on_disk_before_anything_is_computed(
    make_images: MakeImages, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "clinic.jsonl"
    own = Client("clinic", make_images(12), Ledger(path))
    own.enroll(run)
    order: list[str] = []

    def on_disk() -> int:
        return len(Ledger.parse(path.read_bytes()).events)

    release = SampledGaussianMechanism.measure
    rows = ClassGradients.rows
    put = Outbox.put
    seal = Ledger.seal

    def spy(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def spied(*a: Any, **k: Any) -> Any:
            order.append(f"{name} {on_disk()} {own.ledger.status('run-1:000000')}")
            return call(*a, **k)

        return spied

    monkeypatch.setattr(SampledGaussianMechanism, "measure", spy("release", release))
    monkeypatch.setattr(ClassGradients, "rows", spy("rows", rows))
    monkeypatch.setattr(Outbox, "put", spy("outbox", put))
    monkeypatch.setattr(Ledger, "seal", spy("seal", seal))
    own.answer(query(run))
    assert order[0] == "release 1 charged"
    assert set(order[1:-2]) <= {"rows 1 charged"}
    assert order[-2:] == ["outbox 1 charged", "seal 1 charged"]


def test_without_privacy_the_charge_comes_first_too(
    make_images: MakeImages, tiny_info: DatasetInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, open_run = Client("clinic", make_images(12), allow_without_privacy=True), Run("run-1", tiny_info, None)
    own.enroll(open_run)
    seen: list[list[Any]] = []
    plain = ClassGradients.plain
    monkeypatch.setattr(ClassGradients, "plain", lambda *a: seen.append(charges(own.ledger)) or plain(*a))
    message = own.answer(query(open_run))
    assert seen == [[NotPrivate()]]
    assert message.counts is not None
    assert message.counts.tolist() == [4, 4, 4]
    assert own.ledger.epsilon(1e-5) == math.inf


def test_a_failure_after_the_charge_is_not_free_to_repeat(
    client: Client, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:

        def fail(*_: Any) -> Iterator[Any]:
            raise RuntimeError("out of memory")

        patch.setattr(ClassGradients, "rows", fail)
        for tries in range(1, 4):
            with pytest.raises(ComputationError, match="new charge") as caught:
                client.answer(query(run))
            assert "memory" not in str(caught.value)
            assert charges(client.ledger) == [PLAN.event] * tries
    message = client.answer(query(run))
    assert charges(client.ledger) == [PLAN.event] * 4
    assert client.answer(query(run)).data == message.data
    client.answer(query(run, 1))
    with pytest.raises(QueryRefusedError, match="charge 6"):  # T_max counts the failures
        client.answer(query(run, 2))


@pytest.mark.parametrize("question", ["class_gradients", "class_embeddings"])
def test_every_batch_is_computed_in_micro_batches_of_one_size(
    make_images: MakeImages, tiny_info: DatasetInfo, monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    """An empty batch runs one, too: what an answer takes must not tell how many examples are in it."""
    embedding = {"seeds": [1], "pool": 1, "bandwidth": 0.5, "frequencies": 2, "augment": False}
    changes = {} if question == "class_gradients" else {"arguments": embedding | {"model": SPEC.to_json()}}
    made = register.PRIVATE_QUESTIONS[question]
    forward, sizes = nn.Linear.forward, []
    monkeypatch.setattr(nn.Linear, "forward", lambda layer, x: sizes.append(len(x)) or forward(layer, x))
    rows, handed = made.rows, []
    groups, counted = made.groups, []
    monkeypatch.setattr(made, "rows", lambda own, x, y: handed.append((len(x), len(y))) or rows(own, x, y))
    monkeypatch.setattr(made, "groups", lambda own, y: counted.append(len(y)) or groups(own, y))
    whole = Run("run-1", tiny_info, dataclasses.replace(PLAN, sample_rate=1.0))
    layers = 2 if question == "class_gradients" else 1
    for n, expected in ((0, [0]), (1, [1]), (64, [64]), (65, [64, 1]), (130, [64, 64, 2])):
        own = Client("clinic", make_images(n))
        own.enroll(whole)
        tensors = query(whole).tensors if question == "class_gradients" else {}
        asked = query(whole, question=question, tensors=tensors, **changes)
        own.answer(asked)  # the checks of the first query are behind us
        sizes.clear(), handed.clear(), counted.clear()
        own.answer(dataclasses.replace(asked, server_round=1))
        assert handed == [(64, 64)] * len(expected)
        assert counted == expected
        assert sizes[-layers * len(expected) :] == [64] * layers * len(expected)


MEMORY = """
import resource, sys
import torch
from private_distdd import Client, DatasetInfo, ImageDataset, ModelSpec, PrivacyPlan
from private_distdd.errors import ComputationError
from private_distdd.wire.query import Query
from private_distdd.wire.run import Run
from private_distdd.questions.register import private_question

torch.set_num_threads(1)
room, info, spec = float(sys.argv[1]), DatasetInfo("x", 2, (1, 8, 8)), ModelSpec("mlp", {"width": 3000, "depth": 1})
run = Run("r", info, PrivacyPlan(1.0, 1.0, 1.0, 1.0, 2, 1e-5))
state = dict(spec.build(info.shape, 2, 0).state_dict())
small = ModelSpec("mlp", {"width": 8, "depth": 1})
for n in (0, 1, 64, 200):
    client = Client("c", ImageDataset(torch.zeros(n, 1, 8, 8), torch.zeros(n, dtype=torch.int64), info))
    client.enroll(run)
    ask = lambda t, spec, state: client.answer(
        Query("r", t, "class_gradients", {"model": spec.to_json(), "granularity": "class"}, state, run.plan)
    )
    ask(0, small, dict(small.build(info.shape, 2, 0).state_dict()))  # imports and checks
    private_question("class_gradients", {"model": spec.to_json(), "granularity": "class"}, state, info, "cpu")
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (int(used + room * 2**30), resource.RLIM_INFINITY))
    try:
        ask(1, spec, state)
        print(n, "answered")
    except ComputationError:
        print(n, "failed")
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits on address space")
@pytest.mark.parametrize(("room", "outcome"), [(0.2, "failed"), (1.5, "answered")])
def test_memory_does_not_tell_an_empty_batch_from_others(room: float, outcome: str) -> None:
    """A client with too little memory fails for every data set, or for none."""
    done = subprocess.run([sys.executable, "-c", MEMORY, str(room)], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:-1] == [f"{n} {outcome}" for n in (0, 1, 64, 200)]


def test_asked_again_the_same_bytes_and_no_charge(client: Client, run: Run) -> None:
    first = client.answer(query(run))
    for _ in range(3):
        assert client.answer(query(run)).data == first.data
        assert client.answer(Query.from_bytes(query(run).data)).data == first.data
    assert charges(client.ledger) == [PLAN.event]


def test_a_second_different_query_in_one_round_is_refused(client: Client, run: Run) -> None:
    first = client.answer(query(run))
    before = client.ledger.to_bytes()
    for other in (query(run, seed=1), query(run, arguments={"model": SPEC.to_json(), "granularity": "joint"})):
        with pytest.raises(QueryRefusedError, match="second, different"):
            client.answer(other)
    assert client.ledger.to_bytes() == before
    assert client.answer(query(run)).data == first.data


def test_every_round_has_fresh_noise_and_coins(client: Client, run: Run) -> None:
    values = [client.answer(query(run, t)).values for t in range(5)]
    for i, a in enumerate(values):
        for b in values[:i]:
            assert not bool((a == b).any(dim=1).all())
            assert int((a == b).sum()) < 10


# Refusals


@pytest.mark.parametrize(
    "changes",
    [
        {"noise_multiplier": 1.9},
        {"noise_multiplier": 2.1},
        {"sample_rate": 0.6},
        {"sample_rate": 0.4},
        {"max_grad_norm": 2.0},
        {"divisor": 3.0},
        {"max_queries": 6},
        {"max_queries": 4},
        {"delta": 1e-4},
    ],
)
def test_other_constants_are_refused_for_nothing(client: Client, run: Run, changes: dict[str, float]) -> None:
    before = client.ledger.to_bytes()
    other = dataclasses.replace(PLAN, **changes)
    with pytest.raises(QueryRefusedError, match="pinned"):
        client.answer(query(run, plan=other))
    with pytest.raises(QueryRefusedError):
        client.enroll(Run(run.run_id, run.info, other))
    assert client.ledger.to_bytes() == before
    client.answer(query(run))  # still at the values it agreed to


def test_a_query_without_plan_in_a_private_run_is_refused(client: Client, run: Run) -> None:
    before = client.ledger.to_bytes()
    with pytest.raises(QueryRefusedError, match="pinned"):
        client.answer(query(run, plan=None))
    with pytest.raises(QueryRefusedError, match="pinned"):
        client.answer(query(run, plan=None, batch=((1, 1, 1), 0)))
    with pytest.raises(QueryRefusedError):
        client.enroll(Run(run.run_id, run.info, None))
    assert client.ledger.to_bytes() == before


def test_query_t_max_plus_one_is_refused(client: Client, run: Run) -> None:
    for t in range(PLAN.max_queries):
        client.answer(query(run, t))
    before = client.ledger.to_bytes()
    for t in (PLAN.max_queries, 77):
        with pytest.raises(QueryRefusedError):
            client.answer(query(run, t))
    assert client.ledger.to_bytes() == before
    assert len(charges(client.ledger)) == PLAN.max_queries
    client.answer(query(run, PLAN.max_queries - 1))  # the last one's reply may have been lost


def test_t_max_counts_over_restarts(make_images: MakeImages, run: Run, tmp_path: Path) -> None:
    for t in range(PLAN.max_queries):
        with Ledger(tmp_path / "x.jsonl") as ledger:
            own = Client("clinic", make_images(3), ledger)
            own.enroll(run)
            own.answer(query(run, t))
    with Ledger(tmp_path / "x.jsonl") as ledger:
        own = Client("clinic", make_images(3), ledger)
        own.enroll(run)
        with pytest.raises(QueryRefusedError):
            own.answer(query(run, PLAN.max_queries))
        with pytest.raises(PrivateDistDDError):
            own.enroll(Run(run.run_id, run.info, dataclasses.replace(PLAN, max_queries=9)))


def test_unknown_runs_and_strange_infos_are_refused(client: Client, run: Run) -> None:
    before = client.ledger.to_bytes()
    with pytest.raises(QueryRefusedError, match="enrolled"):
        client.answer(query(Run("run-2", run.info, PLAN)))
    for changes in (
        {"num_classes": 4},
        {"name": "other"},
        {"mean": (0.4,)},
        {"std": (0.4,)},
        {"shape": (1, 4, 16)},
    ):
        with pytest.raises(QueryRefusedError, match="owner"):
            client.enroll(Run("run-2", dataclasses.replace(run.info, **changes), PLAN))
    assert client.ledger.to_bytes() == before


@pytest.mark.parametrize(
    "changes",
    [
        {"question": "class_examples", "arguments": {"counts": [1, 1, 1]}, "tensors": {}},
        {"question": "class_counts", "arguments": {}, "tensors": {}},
        {"question": "os.system"},
        {"question": ""},
        {"arguments": {}},
        {"arguments": {"model": SPEC.to_json(), "granularity": "example"}},
        {"arguments": {"model": SPEC.to_json(), "granularity": "class", "code": "x"}},
        {"arguments": {"model": "mlp", "granularity": "class"}},
        {"arguments": {"model": {"name": "no such", "arguments": {}}, "granularity": "class"}},
        {"arguments": {"model": {"name": "mlp", "arguments": {"widht": 3}}, "granularity": "class"}},
        {"arguments": {"model": {"name": "mlp", "arguments": {"width": 9}}, "granularity": "class"}},
        {"tensors": {}},
        {"tensors": {"x": torch.zeros(2)}},
    ],
)
def test_queries_that_are_not_the_registered_statistic_cost_nothing(
    client: Client, run: Run, changes: dict[str, Any]
) -> None:
    before = client.ledger.to_bytes()
    with pytest.raises((QueryRefusedError, ModelError)):
        client.answer(query(run, **changes))
    assert client.ledger.to_bytes() == before
    client.answer(query(run))


@register_model("test_client_batchnorm")
def _with_batchnorm(shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(math.prod(shape), num_classes))


class _Coupled(nn.Module):
    def __init__(self, pixels: int, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(pixels, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer((images - images.mean(dim=0)).flatten(1))


@register_model("test_client_coupled")
def _coupled(shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    return _Coupled(math.prod(shape), num_classes)


@pytest.mark.parametrize("name", ["test_client_batchnorm", "test_client_coupled"])
def test_networks_that_mix_examples_are_refused_for_nothing(client: Client, run: Run, name: str) -> None:
    bad, before = ModelSpec(name), client.ledger.to_bytes()
    arguments = {"model": bad.to_json(), "granularity": "class"}
    for _ in range(2):  # the second time as well: a cache must not forget the refusal
        with pytest.raises(ModelError):
            client.answer(query(run, arguments=arguments, tensors=dict(bad.build(SHAPE, 3, 0).state_dict())))
    assert client.ledger.to_bytes() == before


def test_budgets(make_images: MakeImages, tiny_info: DatasetInfo) -> None:
    own = Client("clinic", make_images(6), Ledger(None, Budget(1.0, 1e-5)))
    before = own.ledger.to_bytes()
    dear = dataclasses.replace(PLAN, noise_multiplier=0.5)
    with pytest.raises(BudgetExceededError):
        own.enroll(Run("run-1", tiny_info, dear))
    with pytest.raises(BudgetExceededError):
        own.enroll(Run("run-1", tiny_info, None))
    with pytest.raises(QueryRefusedError):
        own.answer(query(Run("run-1", tiny_info, dear)))
    assert own.ledger.to_bytes() == before
    cheap = Run("run-2", tiny_info, dataclasses.replace(PLAN, noise_multiplier=30.0, sample_rate=0.1))
    own.enroll(cheap)
    for t in range(PLAN.max_queries):
        own.answer(query(cheap, t))
    assert 0 < own.ledger.epsilon(1e-5) <= 1.0


def test_an_owner_s_plan_is_the_only_one(make_images: MakeImages, run: Run, tiny_info: DatasetInfo) -> None:
    own = Client("clinic", make_images(6), plan=PLAN)
    for plan in (None, dataclasses.replace(PLAN, max_grad_norm=2.0), dataclasses.replace(PLAN, max_queries=4)):
        with pytest.raises(QueryRefusedError, match="owner"):
            own.enroll(Run("run-2", tiny_info, plan))
    own.enroll(run)
    own.answer(query(run))


def test_an_owner_s_plan_is_for_so_many_runs(make_images: MakeImages, tiny_info: DatasetInfo, tmp_path: Path) -> None:
    once = dataclasses.replace(PLAN, max_queries=1)
    for most in (1, 3):
        path = tmp_path / f"{most}.jsonl"
        for number in range(most):
            with Ledger(path) as ledger:  # counted over restarts
                own = Client("clinic", make_images(6), ledger, plan=once, max_runs=most)
                for _ in range(2):  # a run may be resumed
                    own.enroll(offered := Run(f"run-{number}", tiny_info, once))
                own.answer(query(offered))
        with Ledger(path) as ledger:
            own, before = Client("clinic", make_images(6), ledger, plan=once, max_runs=most), ledger.to_bytes()
            for number in range(most, most + 3):
                with pytest.raises(QueryRefusedError, match="as the owner says"):
                    own.enroll(Run(f"run-{number}", tiny_info, once))
            assert ledger.to_bytes() == before
            assert ledger.events == (once.event,) * most
            own.enroll(Run("run-0", tiny_info, once))
    with pytest.raises(ConfigurationError, match="max_runs"):
        Client("clinic", make_images(6), plan=once, max_runs=0)


def test_runs_at_the_same_time_do_not_pass_the_owner_s_number(
    make_images: MakeImages, tiny_info: DatasetInfo, tmp_path: Path
) -> None:
    """Pins are counted where they are written: eight threads once had eight runs of a plan for one."""
    for trial in range(3):
        with Ledger(tmp_path / f"{trial}.jsonl") as ledger:
            own = Client("clinic", make_images(3), ledger, plan=PLAN, max_runs=2)
            start = threading.Barrier(8)

            def enroll(number: int, own: Client = own, start: threading.Barrier = start) -> bool:
                start.wait()
                try:
                    own.enroll(Run(f"run-{number}", tiny_info, PLAN))
                except QueryRefusedError:
                    return False
                return True

            with ThreadPoolExecutor(8) as pool:
                assert sum(pool.map(enroll, range(8))) == 2
            assert sum(isinstance(entry, Pin) for entry in ledger) == 2


def test_a_query_that_cannot_be_paid_costs_no_work(client: Client, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for t in range(PLAN.max_queries):
        client.answer(query(run, t))
    prepared: list[str] = []
    monkeypatch.setattr(client_module, "private_question", lambda name, *_: prepared.append(name))
    for width in (9, 10, 11):
        spec = ModelSpec("mlp", {"width": width, "depth": 1})
        with pytest.raises(QueryRefusedError, match="charge 6"):
            client.answer(query(run, 77, arguments={"model": spec.to_json(), "granularity": "class"}))
    assert prepared == []


@pytest.mark.parametrize("allowed", [None, False])
def test_a_client_is_private_unless_its_owner_said_otherwise(
    make_images: MakeImages, tiny_info: DatasetInfo, allowed: bool | None
) -> None:
    own, opened = Client("clinic", make_images(6), allow_without_privacy=allowed), Run("run-1", tiny_info, None)
    before = own.ledger.to_bytes()
    with pytest.raises(QueryRefusedError, match="without privacy"):
        own.enroll(opened)
    with pytest.raises(QueryRefusedError, match="enrolled"):
        own.answer(query(opened))
    assert own.ledger.to_bytes() == before
    told = Client("clinic", make_images(6), allow_without_privacy=True)
    told.enroll(opened)
    assert told.answer(query(opened)).counts is not None
    told.allow_without_privacy = False  # an owner may think again
    with pytest.raises(QueryRefusedError, match="without privacy"):
        told.answer(query(opened, 1))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("mlp", {"width": 16000, "depth": 2}),
        ("mlp", {"width": 4096, "depth": 60}),
        ("convnet", {"width": 4096, "depth": 2}),
    ],
)
def test_networks_beyond_the_owner_s_limits_are_refused_before_they_are_made(
    client: Client, run: Run, monkeypatch: pytest.MonkeyPatch, name: str, arguments: dict[str, int]
) -> None:
    before = client.ledger.to_bytes()
    asked = query(run, arguments={"model": ModelSpec(name, arguments).to_json(), "granularity": "class"})

    made: list[nn.Parameter] = []
    for layer in (nn.Linear, nn.modules.conv._ConvNd):
        monkeypatch.setattr(layer, "reset_parameters", lambda own: made.append(own.weight))
    with pytest.raises(QueryRefusedError, match="GiB"):
        client.answer(asked)
    assert client.ledger.to_bytes() == before
    assert made
    assert all(weight.is_meta for weight in made)


def test_an_owner_may_set_other_limits(make_images: MakeImages, run: Run) -> None:
    for limits in (ComputeLimits(memory=1e6), ComputeLimits(work=100)):
        own = Client("clinic", make_images(6), limits=limits)
        own.enroll(run)
        with pytest.raises(QueryRefusedError, match="owner"):
            own.answer(query(run))
        assert own.ledger.events == ()
    for wrong in (0, -1.0, math.inf, math.nan, True, "8"):
        with pytest.raises(ConfigurationError, match="memory"):
            ComputeLimits(memory=wrong)  # type: ignore[arg-type]


def test_enrolling_again_changes_nothing(client: Client, run: Run) -> None:
    client.answer(query(run))
    before = client.ledger.to_bytes()
    assert client.enroll(run).client_id == "clinic"
    assert client.ledger.to_bytes() == before


@pytest.mark.parametrize("client_id", ["", "a b", "../x", "a/b", "ä", "x" * 65, "a\n", None, 3])
def test_malformed_names(make_images: MakeImages, client_id: Any) -> None:
    with pytest.raises(QueryRefusedError, match="client_id"):
        Client(client_id, make_images(1))


# Nothing depends on the data but the message's values

VARIETIES: dict[str, dict[str, Any]] = {
    "empty": {"n": 0},
    "one example": {"n": 1},
    "one class": {"n": 9, "labels": [2] * 9},
    "no class 1": {"n": 4, "labels": [0, 0, 2, 2]},
    "more than a micro-batch": {"n": 200},
}


@pytest.mark.parametrize("weight", [None, math.nan, math.inf])
def test_all_messages_have_one_size_shape_and_type(make_images: MakeImages, run: Run, weight: float | None) -> None:
    seen = set()
    for arguments in VARIETIES.values():
        own = Client("clinic", make_images(**arguments))
        reply = own.enroll(run).to_bytes()
        asked = query(run)
        if weight is not None:
            asked = query(run, tensors={name: torch.full_like(w, weight) for name, w in asked.tensors.items()})
        message = own.answer(asked)
        assert bool(torch.isfinite(message.values).all())
        assert bool((message.values != 0).any(dim=1).all())  # every class carries noise
        seen.add((reply, len(message.data), message.values.shape, message.values.dtype, message.counts))
        assert len(charges(own.ledger)) == 1
    assert len(seen) == 1


def test_what_a_message_s_noise_is(make_images: MakeImages, run: Run, tiny_info: DatasetInfo) -> None:
    wide = ModelSpec("mlp", {"width": 100, "depth": 1})
    arguments = {"model": wide.to_json(), "granularity": "class"}
    weights = dict(wide.build(SHAPE, 3, 0).state_dict())
    own, other = Client("a", make_images(0)), Client("b", make_images(0))
    noise = []
    for each in (own, other):
        each.enroll(run)
        noise.append([each.answer(query(run, t, arguments=arguments, tensors=weights)).values for t in range(2)])
    z = torch.stack([torch.stack(n) for n in noise]).double().numpy() * PLAN.divisor / PLAN.max_grad_norm
    for sigma, right in ((2.0, True), (2.0 / 1.1, False), (2.0 * 1.1, False), (1.0, False)):
        total = float(np.sum((z / sigma) ** 2))
        p = 2 * min(stats.chi2.cdf(total, z.size), stats.chi2.sf(total, z.size))
        assert bool(p > ALPHA) is right
    pairs = [(z[0], z[1]), (z[:, 0], z[:, 1]), (z[:, :, 0], z[:, :, 1]), (z[..., 1:], z[..., :-1])]
    for a, b in pairs:  # clients, rounds, classes, coordinates
        assert stats.pearsonr(a.ravel(), b.ravel()).pvalue > ALPHA


def test_the_signal_is_the_clipped_sum_over_the_public_divisor(make_images: MakeImages, tiny_info: DatasetInfo) -> None:
    from private_distdd.questions.per_example import clipped_class_sums

    plan = PrivacyPlan(1e-6, 1.0, 0.5, 40.0, 2, 1e-5)
    data, quiet = make_images(30), Run("run-1", tiny_info, plan)
    own = Client("clinic", data)
    own.enroll(quiet)
    model = SPEC.build(SHAPE, 3, 0)
    expected = clipped_class_sums(model, data.images, data.labels, 3, 0.5) / 40.0
    found = own.answer(query(quiet)).values
    assert torch.allclose(found, expected, atol=1e-6)
    joint = own.answer(query(quiet, 1, arguments={"model": SPEC.to_json(), "granularity": "joint"})).values
    assert joint.shape == (1, expected.shape[1])
    assert torch.allclose(joint[0], expected.sum(dim=0), atol=1e-6)


def test_half_of_the_examples_come_to_half_of_the_sum(make_images: MakeImages, tiny_info: DatasetInfo) -> None:
    quiet = Run("run-1", tiny_info, PrivacyPlan(1e-6, 0.25, 1e-3, 1.0, 300, 1e-5))
    own = Client("clinic", make_images(1, labels=[1]))
    own.enroll(quiet)
    drawn = [bool(own.answer(query(quiet, t)).values.norm() > 1e-4) for t in range(300)]
    assert stats.binomtest(sum(drawn), 300, 0.25).pvalue > ALPHA
    assert stats.binomtest(sum(drawn), 300, 0.5).pvalue < ALPHA
    assert len(charges(own.ledger)) == 300  # empty batches are sent and charged


def test_enrolment_does_not_look_at_the_data(make_images: MakeImages, tiny_info: DatasetInfo, run: Run) -> None:
    """Does the client hold a label above 2?  Neither a reply nor a refusal may say."""
    plain = [TensorDataset(torch.zeros(3, *SHAPE), torch.tensor(labels)) for labels in ([0, 1, 2], [0, 1, 7])]
    for offered in (run, Run("run-1", tiny_info, None)):
        outcomes = []
        for data in plain:
            own = Client("clinic", data, Ledger(None, Budget(8.0, 1e-5)))  # knows no info, has a budget
            try:
                own.enroll(offered)
                outcomes.append("yes")
            except PrivateDistDDError as error:
                outcomes.append(f"{type(error).__name__} {error}")
        assert outcomes[0] == outcomes[1]
        assert outcomes[0] != "yes"


def test_bad_data_is_found_at_the_start_not_at_a_query(tiny_info: DatasetInfo) -> None:
    good = torch.zeros(2, *SHAPE)
    for images, labels in (
        (good, torch.tensor([0, 3])),
        (good, torch.tensor([0, -1])),
        (good, torch.tensor([0.0, 1.0])),
        (good + math.nan, torch.tensor([0, 1])),
        (good + math.inf, torch.tensor([0, 1])),
        (torch.zeros(2, 1, 4, 4), torch.tensor([0, 1])),
    ):
        with pytest.raises(DataError):
            Client("clinic", TensorDataset(images, labels), info=tiny_info)
    own = Client("clinic", Subset(TensorDataset(good, torch.tensor([0, 1])), []), info=tiny_info)
    own.enroll(Run("run-1", tiny_info, PLAN))


def test_a_large_delta_is_said_in_the_client_s_own_log_only(
    make_images: MakeImages, tiny_info: DatasetInfo, caplog: pytest.LogCaptureFixture
) -> None:
    plan = dataclasses.replace(PLAN, delta=0.4)
    replies = []
    for n in (2, 3):
        caplog.clear()
        with caplog.at_level(logging.DEBUG):
            replies.append(Client("clinic", make_images(n)).enroll(Run("run-1", tiny_info, plan)).to_bytes())
        names = {record.name for record in caplog.records}
        assert names == (set() if n == 2 else {"private_distdd_client.clinic"})
    assert replies[0] == replies[1]


def test_repr_shows_no_sizes(make_images: MakeImages) -> None:
    own = Client("clinic", make_images(12345 % 97))
    assert repr(own) == str(own) == "Client('clinic')"


def test_an_answer_leaves_the_global_generators_alone(make_images: MakeImages, run: Run) -> None:
    own = Client("clinic", make_images(6))
    own.enroll(run)
    torch.manual_seed(3)
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    own.answer(query(run))
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.array_equal(np.random.get_state()[1], state[1])


def test_reseeding_between_rounds_does_not_repeat_noise(make_images: MakeImages, run: Run) -> None:
    own = Client("clinic", make_images(0))
    own.enroll(run)
    values = []
    for t in range(3):
        torch.manual_seed(0), np.random.seed(0)
        values.append(own.answer(query(run, t)).values)
    assert not torch.equal(values[0], values[1])
    assert float((values[0] == values[1]).double().mean()) < 0.01


# Insecure randomness


def test_insecure_randomness_is_charged_as_not_private(make_images: MakeImages, run: Run) -> None:
    twins = [Client("clinic", make_images(6), randomness=InsecureRandomness(1)) for _ in range(2)]
    messages = []
    for own in twins:
        own.enroll(run)
        messages.append(own.answer(query(run)).data)
        assert charges(own.ledger) == [NotPrivate()]
        assert own.ledger.epsilon(1e-5) == math.inf
    assert messages[0] == messages[1]
    careful = Client("clinic", make_images(6), Ledger(None, Budget(8, 1e-5)), randomness=InsecureRandomness(1))
    with pytest.raises(BudgetExceededError):
        careful.enroll(run)


# Crashes: a ledger file, an outbox beside it


class Crash(BaseException):
    """The process dies here."""


def crashing(patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    def die(*_: Any, **__: Any) -> Any:
        raise Crash

    patch.setattr(owner, name, die)


def reopened(path: Path, data: ImageDataset, run: Run) -> Client:
    own = Client("clinic", data, Ledger(path))
    own.enroll(run)
    return own


@pytest.mark.parametrize(
    ("owner", "name"),
    [(SampledGaussianMechanism, "measure"), (Outbox, "put"), (Ledger, "seal")],
    ids=["after the charge", "before the outbox", "between outbox and seal"],
)
def test_a_crash_uses_its_charge_up_and_another_try_is_charged(
    make_images: MakeImages, run: Run, tmp_path: Path, owner: Any, name: str
) -> None:
    path, data = tmp_path / "clinic.jsonl", make_images(12)
    own = reopened(path, data, run)
    with pytest.MonkeyPatch.context() as patch:
        crashing(patch, owner, name)
        with pytest.raises(Crash):
            own.answer(query(run))
    own.ledger.close()
    own = reopened(path, data, run)
    assert own.ledger.status("run-1:000000") == "charged"
    message = own.answer(query(run))
    assert charges(own.ledger) == [PLAN.event] * 2
    own.ledger.close()
    own = reopened(path, data, run)
    assert own.answer(query(run)).data == message.data  # the reply was lost, the bytes were not
    assert charges(own.ledger) == [PLAN.event] * 2
    own.ledger.close()


@pytest.mark.parametrize("damage", ["gone", "other bytes", "empty"])
def test_a_lost_outbox_costs_a_new_charge(make_images: MakeImages, run: Run, tmp_path: Path, damage: str) -> None:
    path, data = tmp_path / "clinic.jsonl", make_images(12)
    own = reopened(path, data, run)
    first = own.answer(query(run))
    own.ledger.close()
    (outbox,) = tmp_path.glob("*.outbox")
    if damage == "gone":
        outbox.unlink()
    else:
        outbox.write_bytes(b"" if damage == "empty" else b"{}")
    own = reopened(path, data, run)
    second = own.answer(query(run))
    assert second.data != first.data
    assert charges(own.ledger) == [PLAN.event] * 2
    assert own.answer(query(run)).data == second.data
    own.ledger.close()


def test_a_full_disk_keeps_the_message_in(
    make_images: MakeImages, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = reopened(tmp_path / "clinic.jsonl", make_images(12), run)
    with monkeypatch.context() as patch:

        def full(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(outbox_module, "write_file", full)
        with pytest.raises(ComputationError, match="disk") as caught:
            own.answer(query(run))
        assert "space" in str(caught.value.__cause__)
    assert own.ledger.status("run-1:000000") == "charged"
    own.answer(query(run))
    assert charges(own.ledger) == [PLAN.event] * 2
    own.ledger.close()


def test_the_outbox_file_is_a_message_and_nothing_else(make_images: MakeImages, run: Run, tmp_path: Path) -> None:
    own = reopened(tmp_path / "clinic.jsonl", make_images(12), run)
    message = own.answer(query(run))
    (outbox,) = tmp_path.glob("*.outbox")
    assert {path.suffix for path in tmp_path.iterdir()} == {".jsonl", ".lock", ".outbox"}
    assert Message.from_bytes(outbox.read_bytes()).data == message.data
    assert outbox.stat().st_mode & 0o777 == 0o600
    assert b"image" not in (tmp_path / "clinic.jsonl").read_bytes()
    own.ledger.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork here")
def test_a_forked_child_cannot_answer_with_the_same_noise(make_images: MakeImages, run: Run, tmp_path: Path) -> None:
    own = Client("clinic", make_images(0))
    own.enroll(run)
    read, write = os.pipe()
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            reply = own.answer(query(run)).values.numpy().tobytes()[:32]
        except PrivateDistDDError:
            reply = b"refused"
        os.write(write, reply)
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(read, 32)
    assert theirs
    assert theirs != own.answer(query(run)).values.numpy().tobytes()[:32]


def test_a_private_charge_left_by_a_crash_pays_for_nothing_else(
    make_images: MakeImages, run: Run, tmp_path: Path
) -> None:
    """After the restart the server offers the same run, but without privacy."""
    path, data = tmp_path / "clinic.jsonl", make_images(12)
    own = reopened(path, data, run)
    with pytest.MonkeyPatch.context() as patch:
        crashing(patch, SampledGaussianMechanism, "measure")
        with pytest.raises(Crash):
            own.answer(query(run))
    own.ledger.close()
    own = Client("clinic", data, Ledger(path), allow_without_privacy=True)
    opened = Run(run.run_id, run.info, None)
    with contextlib.suppress(QueryRefusedError):
        own.enroll(opened)
    with pytest.raises(PrivateDistDDError):
        own.answer(query(opened))
    assert charges(own.ledger) == [PLAN.event]
    own.ledger.close()
    own = reopened(path, data, run)  # the run that was agreed to goes on
    own.answer(query(run))
    assert charges(own.ledger) == [PLAN.event] * 2
    own.ledger.close()


def test_another_client_s_ledger_is_refused(make_images: Any) -> None:
    with pytest.raises(ConfigurationError, match="the ledger of client 'b' for client 'a'"):
        Client("a", make_images(3), Ledger(None, client_id="b"))


def test_randomness_that_only_says_it_is_secure_is_charged_as_not_private(make_images: Any, tiny_info: Any) -> None:
    class Pretender(SystemRandomness):
        def stream(self) -> Stream:
            return Stream(bytes(32))

    client = Client("a", make_images(3), randomness=Pretender())
    client.enroll(Run("r", tiny_info, PrivacyPlan(1.0, 1.0, 1.0, 1.0, 1, 1e-5)))
    assert client.ledger.reserved() == (Composition((NotPrivate(),)),)
