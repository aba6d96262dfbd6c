"""Fixed public features of a client's examples: computed once, after a charge, and the same messages as without."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from answers import MakeImages, charges
from torch import Tensor, nn

from private_distdd.data.info import DatasetInfo
from private_distdd.encoding import sha256
from private_distdd.engines.in_process import InProcess
from private_distdd.errors import ComputationError
from private_distdd.networks.per_example import PerExampleGradients
from private_distdd.networks.register import register_model
from private_distdd.networks.scattering import Scattering
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.privacy.randomness import InsecureRandomness
from private_distdd.questions.class_gradients import ClassGradients
from private_distdd.questions.question import OnOutputs
from private_distdd.site.client import Client
from private_distdd.wire.engine import ASK
from private_distdd.wire.query import Query
from private_distdd.wire.refusal import Refusal
from private_distdd.wire.reply import Reply
from private_distdd.wire.run import Run


class _Noisy(nn.Module):
    """Nothing to learn, but a buffer that a seed sets."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("_noise", torch.randn(81), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        return features * self.get_buffer("_noise")[:, None, None]


@register_model("test_kept")
def _kept(shape: tuple[int, int, int], num_classes: int, *, between: str = "nothing") -> nn.Module:
    frozen = nn.Linear(324, 324)
    frozen.requires_grad_(False)
    scattering = Scattering(*shape[1:])
    return nn.Sequential(
        *([scattering] if between != "pixels" else []),
        nn.Flatten(1, 2),
        *([_Noisy()] if between == "buffer" else []),
        nn.Flatten(),
        *([frozen] if between == "frozen" else []),
        nn.Linear(64 if between == "pixels" else 324, 16),
        nn.Tanh(),
        nn.Linear(16, num_classes),
    )


LINEAR, DEEP = ModelSpec("scatter_linear"), ModelSpec("test_kept")
SEEDS = [3, 4, 5]


def run_of(info: DatasetInfo, events: int = 1, sample_rate: float = 0.5, queries: int = 9) -> Run:
    return Run("run-1", info, PrivacyPlan(0.01, sample_rate, 1.0, 1.0, queries, 1e-5, events_per_query=events))


def asked(run: Run, server_round: int, spec: ModelSpec = DEEP, granularity: str = "class", events: str = "") -> Query:
    own: dict[str, Any] = {"model": spec.to_json(), "granularity": granularity}
    if events:
        arguments = {**own, "seeds": SEEDS, "events": events}
        return Query(run.run_id, server_round, "class_gradients_at_seeds", arguments, {}, run.plan)
    state = dict(spec.build(run.info.shape, run.info.num_classes, seed=server_round).state_dict())
    return Query(run.run_id, server_round, "class_gradients", own, state, run.plan)


def enrolled(make_images: MakeImages, run: Run, n: int, seed: int = 0, name: str = "clinic") -> Client:
    client = Client(name, make_images(n, seed), randomness=InsecureRandomness(seed))
    client.enroll(run)
    return client


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many examples each call of a fixed map was handed."""
    calls, features = list[int](), PerExampleGradients.features
    monkeypatch.setattr(
        PerExampleGradients, "features", lambda own, examples: calls.append(len(examples)) or features(own, examples)
    )
    return calls


@pytest.mark.parametrize("n", [0, 1, 64, 130])
@pytest.mark.parametrize(
    ("spec", "granularity", "events"),
    [(LINEAR, "class", ""), (DEEP, "joint", ""), (DEEP, "class", "one"), (DEEP, "joint", "each")],
)
def test_messages_are_to_the_bit_those_of_rows_computed_from_images(
    make_images: MakeImages,
    tiny_info: DatasetInfo,
    mapped: list[int],
    monkeypatch: pytest.MonkeyPatch,
    spec: ModelSpec,
    granularity: str,
    events: str,
    n: int,
) -> None:
    run = run_of(tiny_info, events=len(SEEDS) if events == "each" else 1)
    keeping, plain = (enrolled(make_images, run, n) for _ in range(2))
    queries = [asked(run, t, spec, granularity, events) for t in range(3)]
    found = [keeping.answer(query) for query in queries]
    assert mapped == [64] * max(1, -(-n // 64))  # once for all rounds and networks, and in micro-batches of one size
    monkeypatch.setattr(PerExampleGradients, "has_features", False)
    assert [message.data for message in found] == [plain.answer(query).data for query in queries]
    assert len(mapped) == max(1, -(-n // 64))
    other = enrolled(make_images, run, n, seed=1).answer(queries[0])
    assert not torch.allclose(other.values, found[0].values)


def test_outputs_of_the_newest_map_alone_are_kept(
    make_images: MakeImages, tiny_info: DatasetInfo, mapped: list[int]
) -> None:
    run = run_of(tiny_info)
    client = enrolled(make_images, run, 70)
    for server_round, (spec, calls) in enumerate(((LINEAR, 2), (LINEAR, 2), (DEEP, 4), (DEEP, 4), (LINEAR, 6))):
        client.answer(asked(run, server_round, spec))
        assert len(mapped) == calls
    relabelled = client.relabelled(lambda labels: labels.flip(0))
    relabelled.enroll(run)
    relabelled.answer(asked(run, 5, LINEAR))
    assert len(mapped) == 6  # the same images


@pytest.mark.parametrize(("queries", "events", "kept"), [(2, 1, False), (3, 1, True), (1, 3, True)])
def test_nothing_is_kept_where_a_plan_takes_few_examples(
    make_images: MakeImages, tiny_info: DatasetInfo, mapped: list[int], queries: int, events: int, kept: bool
) -> None:
    run = run_of(tiny_info, events, 0.4, queries)
    enrolled(make_images, run, 70).answer(asked(run, 0, events="each" if events > 1 else ""))
    assert bool(mapped) is kept


def test_a_failure_of_the_map_comes_after_the_charge_and_costs_it(
    make_images: MakeImages, tiny_info: DatasetInfo, mapped: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tiny_info)
    client, twin = (enrolled(make_images, run, 70) for _ in range(2))
    expected = twin.answer(asked(run, 0))
    del mapped[:]
    with monkeypatch.context() as patch:
        features = PerExampleGradients.features

        def failing(own: PerExampleGradients, examples: Tensor) -> Tensor:
            if len(charges(client.ledger)) + len(mapped) > 1:  # in the second micro-batch of the first try
                raise RuntimeError("out of memory")
            return features(own, examples)

        patch.setattr(PerExampleGradients, "features", failing)
        for tries in (1, 2):
            with pytest.raises(ComputationError, match="new charge") as caught:
                client.answer(asked(run, 0))
            assert "memory" not in str(caught.value)
            assert len(charges(client.ledger)) == tries
    assert mapped == [64]
    message = client.answer(asked(run, 0))
    assert mapped == [64] * 3  # nothing is left of what failed
    assert len(charges(client.ledger)) == 3
    assert sha256(message.data) != sha256(expected.data)  # the tries that failed had drawn noise and coins of their own


def test_in_company_messages_are_those_of_clients_alone_and_a_failure_of_the_map_is_its_client_s_own(
    make_images: MakeImages, tiny_info: DatasetInfo, mapped: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, sizes = run_of(tiny_info, sample_rate=1.0), [5, 20, 0, 70, 9]
    alone, met = ([enrolled(make_images, run, n, i, f"c{i}") for i, n in enumerate(sizes)] for _ in range(2))
    for server_round in range(2):
        query = asked(run, server_round)
        expected = [client.answer(query).data for client in alone]
        del mapped[:]
        replies = InProcess(met).exchange(ASK, {client.client_id: query.data for client in met})
        assert [Reply.from_bytes(replies[client.client_id] or b"").answer for client in met] == expected
        assert mapped == [64] * (6 if server_round == 0 else 0)
    mark, features = make_images(20, 1).images[0], PerExampleGradients.features

    def failing(own: PerExampleGradients, examples: Tensor) -> Tensor:
        if bool((examples == mark).flatten(1).all(dim=1).any()):
            raise MemoryError("put in by a test")
        return features(own, examples)

    monkeypatch.setattr(PerExampleGradients, "features", failing)
    query = asked(run, 2, LINEAR)
    replies = InProcess(met).exchange(ASK, {client.client_id: query.data for client in met})
    answers = [Reply.from_bytes(replies[client.client_id] or b"").answer for client in met]
    refused = Refusal("failed").to_bytes()
    assert [answer == refused for answer in answers] == [False, True, False, False, False]
    assert [len(client.ledger.events) for client in met] == [3] * len(met)


@pytest.mark.parametrize(
    ("spec", "kept"),
    [
        (LINEAR, True),
        (DEEP, True),
        (ModelSpec("test_kept", {"between": "frozen"}), False),  # weights that a query sends
        (ModelSpec("test_kept", {"between": "buffer"}), False),  # and what a seed sets
        (ModelSpec("test_kept", {"between": "pixels"}), False),  # nothing that costs
        (ModelSpec("mlp", {"width": 16}), False),
        (ModelSpec("convnet", {"width": 16, "depth": 1}), False),
    ],
)
def test_what_is_kept_costs_something_and_is_the_same_in_every_query(
    tiny_info: DatasetInfo, spec: ModelSpec, kept: bool
) -> None:
    def made(seed: int, granularity: str) -> ClassGradients:
        state = spec.build(tiny_info.shape, 3, seed).state_dict()
        return ClassGradients({"model": spec.to_json(), "granularity": granularity}, state, tiny_info, "cpu")

    first, other = made(0, "class"), made(1, "joint")
    assert isinstance(first.measured, OnOutputs) is kept
    if not kept:
        assert first.measured is first
        return
    assert isinstance(other.measured, OnOutputs)
    assert first.measured.fixed.key == other.measured.fixed.key
    assert hash(first.measured.fixed.key) == hash(other.measured.fixed.key)
    images, labels = torch.randn(64, *tiny_info.shape), torch.arange(64) % 3
    outputs = first.measured.fixed.outputs(images)
    assert torch.equal(outputs, other.measured.fixed.outputs(images))
    assert torch.equal(other.measured.rows(outputs, labels), other.rows(images, labels))
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))  # places in the map and behind it differ
    assert torch.equal(first.measured.rows(outputs[order], labels[order]), first.rows(images, labels)[order])
    assert torch.equal(first.measured.fixed.outputs(images[order]), outputs[order])
    assert first.measured.groups(labels).tolist() == labels.tolist()
    assert other.measured.groups(labels).tolist() == [0] * 64
