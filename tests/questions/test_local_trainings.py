"""The question "local_trainings": several trainings in one message, each step of each a measurement of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError, ModelError, QueryRefusedError
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.mechanism import LATTICE, lattice_sums
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.questions.arguments import weights_of
from private_distdd.questions.local_training import LocalTraining
from private_distdd.questions.local_trainings import LocalTrainings
from private_distdd.site.client import Client
from private_distdd.wire.query import Query
from private_distdd.wire.run import Run

MakeImages = Callable[..., ImageDataset]
INFO = DatasetInfo("tiny", 3, (1, 8, 8), (0.5,), (0.5,))
SPEC = ModelSpec("mlp", {"width": 4, "depth": 1})
PARAMETERS = SPEC.size(INFO.shape, 3).parameters


def asked(**others: Any) -> dict[str, Any]:
    usual = {"model": SPEC.to_json(), "seeds": [1, 2], "whole": False, "steps": 3}
    return usual | {"rate": 0.2, "batch_size": None, "seed": 0} | others


def state(seed: int) -> dict[str, Tensor]:
    return dict(SPEC.build(INFO.shape, 3, seed).state_dict())


def question(**others: Any) -> LocalTrainings:
    return LocalTrainings(asked(**others), {}, INFO, "cpu")


def alone(seed: int) -> LocalTraining:
    own = {name: value for name, value in asked().items() if name not in ("seeds", "whole")}
    return LocalTraining(own | {"proximal": 0.0}, state(seed), INFO, "cpu")


def test_a_message_is_the_trainings_side_by_side(make_images: MakeImages) -> None:
    data = make_images(20)
    values, counts = question().plain(data.images, data.labels)
    expected = [alone(seed).plain(data.images, data.labels)[0] for seed in (1, 2)]
    assert torch.equal(values, torch.cat(expected, dim=1))
    assert counts.tolist() == [20]
    sent = LocalTrainings(asked(), weights_of([state(2), state(1)]), INFO, "cpu").plain(data.images, data.labels)[0]
    assert torch.equal(sent, torch.cat(expected[::-1], dim=1))


def test_a_whole_way_adds_up_to_its_end(make_images: MakeImages) -> None:
    data = make_images(20)
    ends, whole = (question(whole=one).plain(data.images, data.labels)[0] for one in (False, True))
    steps = whole.reshape(2, 3, PARAMETERS)
    assert torch.allclose(steps.sum(1).flatten(), ends[0], atol=1e-4)
    assert not torch.allclose(steps[:, 0], steps[:, 1], atol=1e-2)
    assert question(whole=True).dimension == whole.shape[1]
    nobody = question(whole=True).plain(data.images[:0], data.labels[:0])
    assert nobody[0].shape == whole.shape
    assert not nobody[0].any()


@given(starts=st.integers(1, 4), steps=st.integers(1, 4), whole=st.booleans())
def test_events_are_starts_times_steps_and_nothing_else_is_told(starts: int, steps: int, whole: bool) -> None:
    """The whole way is to the bit what was measured; its end is their sums."""
    own = question(seeds=list(range(starts)), steps=steps, whole=whole)
    assert own.events == starts * steps
    generator, told = torch.Generator().manual_seed(steps), list[Tensor]()
    answer = own.answer()
    measured = next(answer)
    for left in reversed(range(own.events)):
        assert (measured.num_groups, measured.dimension) == (1, PARAMETERS)
        told.append(torch.randn(1, PARAMETERS, generator=generator))
        if left:
            measured = answer.send(told[-1])
    with pytest.raises(StopIteration) as end:
        answer.send(told[-1])
    each = torch.stack(told).reshape(starts, steps, PARAMETERS)
    expected = each if whole else each.sum(1)
    assert end.value.value.shape == (1, own.dimension)
    assert torch.allclose(end.value.value, expected.reshape(1, -1), atol=1e-5)
    assert torch.equal(end.value.value, each.reshape(1, -1)) or not whole


def test_an_example_moves_each_step_by_at_most_c(make_images: MakeImages) -> None:
    """At the weights to which the noisy sums led, whatever they are: with it and without it."""
    data, clip = make_images(10), 0.5
    answer = question().answer()
    measured = next(answer)
    for left in reversed(range(6)):
        rows = measured.rows(data.images, data.labels)
        sums = [lattice_sums([(rows[:n], torch.zeros(n, dtype=torch.int64))], 1, PARAMETERS, clip) for n in (9, 10)]
        moved = torch.linalg.vector_norm((sums[1] - sums[0]).double()) * clip / LATTICE
        assert 0 < float(moved) <= clip
        assert float(torch.linalg.vector_norm(rows[9])) > clip  # so that it was clipped
        measured = answer.send(torch.randn(1, PARAMETERS)) if left else measured


def client(name: str, data: ImageDataset, events: int, sigma: float) -> tuple[Client, Run]:
    run = Run("r" * 32, data.info, PrivacyPlan(sigma, 1.0, 1.0, 2.0, 3, 1e-5, events))
    made = Client(name, data)
    made.enroll(run)
    return made, run


def test_a_client_split_into_two_changes_nothing_but_the_noise(make_images: MakeImages) -> None:
    """First steps are sums over examples, wherever these are."""
    data, sigma = make_images(40), 1e-4
    halves = [ImageDataset(data.images[part], data.labels[part], data.info) for part in (slice(15), slice(15, 40))]
    found = []
    for own in (data, *halves):
        made, run = client("a", own, 2, sigma)
        found.append(made.answer(Query(run.run_id, 0, "local_trainings", asked(steps=1), {}, run.plan)).values)
        assert [event.count for event in made.ledger.events] == [2]
    whole, *parts = found
    assert float((sum(parts) - whole).abs().max()) < 10 * sigma
    assert not torch.equal(sum(parts), whole)
    assert float((parts[0] - whole).abs().max()) > 100 * sigma


def test_a_plan_of_another_number_of_events_is_refused_for_nothing(make_images: MakeImages) -> None:
    made, run = client("a", make_images(9), 3, 1.0)
    with pytest.raises(QueryRefusedError, match="takes 6 measurements"):
        made.answer(Query(run.run_id, 0, "local_trainings", asked(), {}, run.plan))
    assert not made.ledger.events


@pytest.mark.parametrize(
    "wrong",
    [{"seeds": []}, {"seeds": [1, 1]}, {"seeds": 1}, {"whole": 1}, {"steps": 0}, {"rate": 1e7}, {"proximal": 0.0}],
    ids=str,
)
def test_other_arguments_are_refused_for_nothing(make_images: MakeImages, wrong: dict[str, Any]) -> None:
    made, run = client("a", make_images(9), 6, 1.0)
    with pytest.raises((ConfigurationError, ModelError, QueryRefusedError)):
        made.answer(Query(run.run_id, 0, "local_trainings", asked(**wrong), {}, run.plan))
    assert not made.ledger.events


def test_weights_that_are_not_the_networks_are_refused() -> None:
    for tensors in (weights_of([state(1)]), weights_of([state(1)] * 3), {"0/odd": torch.zeros(1)}):
        with pytest.raises(ModelError):
            LocalTrainings(asked(), tensors, INFO, "cpu")
