"""Ways of networks: a student's steps, their derivatives, and the steps on S."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from private_distdd.data.info import DatasetInfo
from private_distdd.matching.trajectories import DISTANCES, Way, cosine, match_ways, moved_by, normalised_l2
from private_distdd.networks.spec import ModelSpec
from private_distdd.synthetic.latents import Latents

INFO = DatasetInfo("tiny", 3, (1, 8, 8), (0.5,), (0.5,))
LABELS = torch.arange(3).repeat_interleave(2)


def network(dtype: torch.dtype = torch.float64) -> nn.Module:
    return ModelSpec("convnet", {"width": 4, "depth": 1}).build(INFO.shape, 3, seed=0).to(dtype)


def flat(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def images(seed: int = 0) -> Tensor:
    return torch.randn(6, *INFO.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_student_goes_the_way_of_sgd() -> None:
    model = network()
    start = flat(model)
    found = moved_by(network(), start, images(), LABELS, torch.tensor(0.3, dtype=torch.float64), 4)
    optimizer = torch.optim.SGD(model.parameters(), 0.3)
    for _ in range(4):
        optimizer.zero_grad()
        F.cross_entropy(model(images()), LABELS).backward()
        optimizer.step()
    assert torch.allclose(found, flat(model) - start, atol=1e-10)
    assert not torch.allclose(found, (flat(model) - start) * 3 / 4, atol=1e-3)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_derivatives_go_through_all_steps(checkpointed: bool) -> None:
    """Against differences; those of the first order are others."""
    start, direction = flat(network()), images(1)
    target = torch.randn(start.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def distance(shift: Tensor, rate: Tensor, first_order: bool = False) -> Tensor:
        own = images() + shift * direction
        way = moved_by(network(), start, own, LABELS, rate, 4, first_order=first_order, checkpointed=checkpointed)
        return cosine(way, target)

    at = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.0, 0.3)]
    found = torch.autograd.grad(distance(*at), at)
    h = 1e-6
    for k, slope in enumerate(found):
        ends = [distance(*(value.detach() + sign * h * (i == k) for i, value in enumerate(at))) for sign in (1, -1)]
        assert math.isclose(float(slope), float((ends[0] - ends[1]).detach()) / (2 * h), rel_tol=1e-3)
    simple = torch.autograd.grad(distance(*at, first_order=True), at)
    assert abs(float(simple[0] - found[0])) > 0.02 * abs(float(found[0]))


def test_distances() -> None:
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 5.0])
    assert math.isclose(float(normalised_l2(a, b)), 10 / 25, rel_tol=1e-6)
    assert math.isclose(float(cosine(a, b)), 1 - 20 / 25, rel_tol=1e-6)
    assert math.isclose(float(cosine(7 * a, b)), float(cosine(a, b)), rel_tol=1e-5)
    for distance in DISTANCES.values():
        assert abs(float(distance(a, a))) < 1e-6
        assert math.isfinite(float(distance(a, torch.zeros(2))))


def test_steps_bring_s_nearer_to_the_ways_and_a_part_alone_moves_its_part() -> None:
    start = flat(network(torch.float32))
    moved = moved_by(network(torch.float32), start, images(5).float(), LABELS, torch.tensor(0.3), 3).detach()
    for part in (None, torch.tensor([0, 2, 4])):
        latents, losses = Latents.drawn(None, INFO, 6, np.random.default_rng(0), "cpu"), list[float]()
        before = latents.examples().detach().clone()
        match_ways(
            latents,
            LABELS,
            network(torch.float32),
            lambda rng, part=part: Way(start, moved, part),
            INFO,
            distance=cosine,
            student_steps=3,
            student_rate=0.1,
            steps=40,
            rate=0.1,
            generator_rate=0.01,
            smoothness=0.0,
            partition=1,
            first_order=False,
            checkpointed=False,
            rng=np.random.default_rng(0),
            report=lambda step, loss, losses=losses: losses.append(loss),
        )
        assert len(losses) == 40
        assert losses[-1] < 0.7 * losses[0]
        changed = (latents.examples().detach() != before).flatten(1).any(dim=1)
        assert changed.tolist() == [part is None or i in (0, 2, 4) for i in range(6)]
