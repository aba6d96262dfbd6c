"""The question "local_training": the steps of SGD that it says, each under a plan a measurement of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError, ModelError, QueryRefusedError
from private_distdd.limits import GIB, ComputeLimits
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.questions.class_gradients import ClassGradients
from private_distdd.questions.local_training import LocalTraining
from private_distdd.questions.question import Measurable
from private_distdd.questions.register import private_question
from private_distdd.site.client import Client
from private_distdd.wire.query import Query
from private_distdd.wire.run import Run

MakeImages = Callable[..., ImageDataset]
SPEC = ModelSpec("mlp", {"width": 16, "depth": 1})


def asked(**others: Any) -> dict[str, Any]:
    usual = {"model": SPEC.to_json(), "steps": 4, "rate": 0.2, "proximal": 0.0, "batch_size": None, "seed": 0}
    return usual | others


def network(info: DatasetInfo) -> nn.Module:
    return SPEC.build(info.shape, info.num_classes, seed=1)


def question(info: DatasetInfo, **others: Any) -> LocalTraining:
    return LocalTraining(asked(**others), network(info).state_dict(), info, "cpu")


def flat(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def by_torch(data: ImageDataset, steps: int, rate: float, proximal: float) -> Tensor:
    """Full-batch SGD by torch's optimiser on the loss with FedProx's term: how far it goes, over the rate."""
    model = network(data.info)
    start = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), rate)
    for _ in range(steps):
        optimizer.zero_grad()
        pull = sum(((p - s) ** 2).sum() for p, s in zip(model.parameters(), start, strict=True))
        (F.cross_entropy(model(data.images), data.labels) + proximal / 2 * pull).backward()
        optimizer.step()
    return (torch.cat([s.flatten() for s in start]) - flat(model)) / rate


@pytest.mark.parametrize("proximal", [0.0, 2.0])
def test_without_privacy_it_is_sgd_weighted_by_examples(make_images: MakeImages, proximal: float) -> None:
    data = make_images(70)
    values, counts = question(data.info, proximal=proximal).plain(data.images, data.labels)
    assert counts.tolist() == [70]
    assert torch.allclose(values[0] / 70, by_torch(data, 4, 0.2, proximal), atol=1e-5)
    assert not torch.allclose(values[0] / 70, by_torch(data, 4, 0.2, 1.0 - proximal / 4), atol=1e-3)


def test_batches_pass_over_all_examples_before_any_comes_again(make_images: MakeImages) -> None:
    """At a rate of nearly 0 nothing moves: three batches of at most 8 out of 20 add up to the full gradient."""
    data = make_images(20)

    def told(**others: Any) -> Tensor:
        return question(data.info, rate=1e-6, **others).plain(data.images, data.labels)[0] / 20

    first, second, third = (told(steps=steps, batch_size=8) for steps in (1, 2, 3))
    together = 8 * first + 8 * (second - first) + 4 * (third - second)
    assert torch.allclose(together / 20, told(steps=1), atol=1e-5)
    assert not torch.allclose(first, told(steps=1), atol=1e-3)
    assert torch.equal(first, told(steps=1, batch_size=8))  # public, and the same again
    assert not torch.equal(first, told(steps=1, batch_size=8, seed=1))


def test_a_client_without_examples_weighs_nothing(make_images: MakeImages) -> None:
    data = make_images(0)
    values, counts = question(data.info).plain(data.images, data.labels)
    assert counts.tolist() == [0]
    assert not values.any()


@pytest.mark.parametrize("proximal", [0.0, 2.0])
def test_under_a_plan_each_step_is_measured_where_the_noisy_sums_before_it_led(
    make_images: MakeImages, proximal: float
) -> None:
    """Whatever the mechanism answers, the next rows are those of the network that these answers moved."""
    data, rate = make_images(9), 0.2
    own = question(data.info, proximal=proximal)
    assert own.events == 4
    answer, model = own.answer(), network(data.info)
    start, total = flat(model), torch.zeros(own.dimension)

    def measured_here(measured: Measurable) -> Tensor:
        """Checked; what the mechanism is said to have answered."""
        nonlocal total
        state = ClassGradients({"model": SPEC.to_json(), "granularity": "joint"}, model.state_dict(), data.info, "cpu")
        rows, expected = (one.rows(data.images, data.labels) for one in (measured, state))
        assert torch.allclose(rows, expected, rtol=1e-4, atol=1e-5)
        assert measured.groups(data.labels).tolist() == [0] * 9
        noisy = torch.randn(1, own.dimension, generator=torch.Generator().manual_seed(int(total.abs().sum())))
        total = total + noisy[0] + proximal * (flat(model) - start)
        nn.utils.vector_to_parameters(start - rate * total, model.parameters())
        return noisy

    measured = next(answer)
    for _ in range(3):
        measured = answer.send(measured_here(measured))
    with pytest.raises(StopIteration) as end:
        answer.send(measured_here(measured))
    assert torch.allclose(end.value.value, total[None], rtol=1e-4, atol=1e-4)
    assert torch.equal(own.rows(data.images, data.labels), next(own.answer()).rows(data.images, data.labels))


def test_one_step_is_to_the_bit_the_measurement(make_images: MakeImages) -> None:
    own = question(make_images(9).info, steps=1, rate=0.3, proximal=1.0)
    answer = own.answer()
    next(answer)
    noisy = torch.randn(1, own.dimension, generator=torch.Generator().manual_seed(5))
    with pytest.raises(StopIteration) as end:
        answer.send(noisy)
    assert torch.equal(end.value.value, noisy)


def client(data: ImageDataset, steps: int, sigma: float = 4.0) -> tuple[Client, Run]:
    plan = PrivacyPlan(sigma, 0.5, 1.0, 2.0, 3, 1e-5, steps)
    made, run = Client("a", data), Run("r" * 32, data.info, plan)
    made.enroll(run)
    return made, run


def query(run: Run, arguments: dict[str, Any], t: int = 0) -> Query:
    return Query(run.run_id, t, "local_training", arguments, network(run.info).state_dict(), run.plan)


def test_a_message_has_the_noise_of_all_its_steps(make_images: MakeImages) -> None:
    """Of a client without examples: steps independent draws of sigma C / b, at any weights."""
    made, run = client(make_images(0), 4)
    values = torch.cat([made.answer(query(run, asked(), t)).values[0] for t in range(3)]).double()
    expected, count = 4 * (4.0 / 2.0) ** 2, len(values)
    found = float(values.square().mean())

    def is_right(variance: float) -> bool:
        return abs(found / variance - 1) < 5 * math.sqrt(2 / count)

    assert is_right(expected)
    assert not is_right(expected / 4)  # one step's
    assert not is_right(expected * 1.25)  # one step too many
    assert [event.count for event in made.ledger.events] == [4, 4, 4]


def test_a_plan_of_another_number_of_steps_is_refused_for_nothing(make_images: MakeImages) -> None:
    made, run = client(make_images(9), 3)
    with pytest.raises(QueryRefusedError, match="takes 4 measurements"):
        made.answer(query(run, asked()))
    assert not made.ledger.events


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"steps": 4097},
        {"steps": 1.0},
        {"rate": 0},
        {"rate": math.nan},
        {"rate": 1e7},
        {"proximal": -1.0},
        {"proximal": 5.1},
        {"batch_size": 0},
        {"seed": -1},
        {"seed": 2**63},
        {"model": {"name": "no such", "arguments": {}}},
        {"momentum": 0.9},
    ],
    ids=str,
)
def test_other_arguments_are_refused_for_nothing(make_images: MakeImages, wrong: dict[str, Any]) -> None:
    made, run = client(make_images(9), 4)
    with pytest.raises((ConfigurationError, ModelError, QueryRefusedError)):
        made.answer(query(run, asked(**wrong)))
    assert not made.ledger.events


def test_every_step_counts_as_work(tiny_info: DatasetInfo) -> None:
    alone = ClassGradients.cost({"model": SPEC.to_json(), "granularity": "joint"}, tiny_info)
    cost = LocalTraining.cost(asked(), tiny_info)
    assert cost.work == 4 * alone.work
    with pytest.raises(QueryRefusedError, match="operations an example"):
        private_question(
            "local_training",
            asked(),
            network(tiny_info).state_dict(),
            tiny_info,
            "cpu",
            ComputeLimits(GIB, 3 * alone.work),
        )
