"""A client charges before it computes, every try, and repeats its bytes for nothing."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from answers import PLAN, SPEC, MakeImages, charges, query
from torch import nn

from private_distdd.data.info import DatasetInfo
from private_distdd.errors import (
    ComputationError,
    QueryRefusedError,
)
from private_distdd.privacy.events import NotPrivate, SampledGaussian
from private_distdd.privacy.ledger import Ledger
from private_distdd.privacy.mechanism import SampledGaussianMechanism
from private_distdd.questions import register
from private_distdd.questions.class_gradients import ClassGradients
from private_distdd.site.client import Client
from private_distdd.site.outbox import Outbox
from private_distdd.wire.query import Query
from private_distdd.wire.run import Run


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

    release = SampledGaussianMechanism.begin
    rows = ClassGradients.rows
    put = Outbox.put
    seal = Ledger.seal

    def spy(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def spied(*a: Any, **k: Any) -> Any:
            order.append(f"{name} {on_disk()} {own.ledger.status('run-1:000000')}")
            return call(*a, **k)

        return spied

    monkeypatch.setattr(SampledGaussianMechanism, "begin", spy("release", release))
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
info, spec = DatasetInfo("x", 2, (1, 8, 8)), ModelSpec("mlp", {"width": 3000, "depth": 1})
run = Run("r", info, PrivacyPlan(1.0, 1.0, 1.0, 1.0, 2, 1e-5))
state = dict(spec.build(info.shape, 2, 0).state_dict())
small = ModelSpec("mlp", {"width": 8, "depth": 1})
for room, n in ((room, n) for room in (0.03, 0.3) for n in (0, 1, 64, 200)):  # the smaller first: an allocator keeps
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
        print(room, n, "answered")
    except ComputationError:
        print(room, n, "failed")
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits on address space")
def test_memory_does_not_tell_an_empty_batch_from_others() -> None:
    """A client with too little memory fails for every data set, or for none."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:-1] == [
        f"{room} {n} {outcome}" for room, outcome in ((0.03, "failed"), (0.3, "answered")) for n in (0, 1, 64, 200)
    ]


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
