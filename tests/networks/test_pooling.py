"""Quick pooling against torch's own: no bit differs, and nothing of it is left behind."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn

from private_distdd.networks.pooling import quick_pooling
from private_distdd.networks.spec import ModelSpec


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 1, 2, 2), (4, 2, 9, 7), (2, 2, 3, 10), (3, 5, 32, 32)])
def test_values_and_gradients_are_those_of_torch(shape: tuple[int, ...]) -> None:
    pool = nn.Sequential(nn.AvgPool2d(2))
    generator = torch.Generator().manual_seed(0)
    images = (10 ** torch.linspace(-30, 30, shape[-1]) * torch.randn(shape, generator=generator)).requires_grad_()
    usual = pool(images)
    weights = torch.randn(usual.shape, generator=generator)
    (wanted,) = torch.autograd.grad(usual, images, weights)
    with quick_pooling(pool):
        quick = pool(images)
        (found,) = torch.autograd.grad(quick, images, weights)
    assert type(quick.grad_fn) is not type(usual.grad_fn)  # it was another way
    assert torch.equal(quick, usual)
    assert torch.equal(found, wanted)


def test_what_is_not_finite_stays_so() -> None:
    pool, images = nn.AvgPool2d(2), torch.zeros(1, 1, 2, 6)
    images[0, 0, 0, ::2] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    usual = pool(images)
    with quick_pooling(pool):
        torch.testing.assert_close(pool(images), usual, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    "other",
    [nn.AvgPool2d(3), nn.AvgPool2d(2, 1), nn.AvgPool2d(2, padding=1), nn.AvgPool2d(2, divisor_override=3)],
    ids=str,
)
def test_other_pools_are_left_alone(other: nn.AvgPool2d) -> None:
    images = torch.randn(1, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    usual = other(images)
    with quick_pooling(other):
        assert torch.equal(other(images), usual)


def test_ceil_mode_is_left_alone() -> None:
    pool = nn.AvgPool2d(2, ceil_mode=True)
    with quick_pooling(pool):
        assert pool(torch.ones(1, 1, 3, 3)).shape == (1, 1, 2, 2)


def test_nothing_is_left_behind_even_after_an_error() -> None:
    network = ModelSpec("convnet", {"width": 4}).build((1, 8, 8), 3, 0)
    before = [dict(vars(module)) for module in network.modules()]
    seen = False
    with contextlib.suppress(ZeroDivisionError), quick_pooling(network):
        seen = any("forward" in vars(module) for module in network.modules())
        raise ZeroDivisionError
    assert seen
    assert [vars(module).keys() for module in network.modules()] == [own.keys() for own in before]
