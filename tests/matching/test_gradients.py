"""Distances between gradients, against loops written from the papers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from private_distdd.matching.gradients import DISTANCES, cosine, layer_cosine, parameter_shapes, squared_l2
from private_distdd.networks.spec import ModelSpec

SHAPES = [torch.Size(s) for s in [(4, 2, 3, 3), (4,), (4,), (3, 16), (3,)]]
DIMENSION = sum(shape.numel() for shape in SHAPES)


def gradients(seed: int, groups: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, groups, DIMENSION, dtype=torch.float64, generator=generator)
    return a, b


def slow_cosine(a: list[float], b: list[float]) -> float:
    dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
    return dot / (math.sqrt(math.fsum(x * x for x in a)) * math.sqrt(math.fsum(y * y for y in b)) + 1e-12)


def slow_layer_cosine(synthetic: Tensor, target: Tensor) -> float:
    """DC's distance_wb: one row an output node, one-dimensional parameters left out."""
    total = 0.0
    for a, b in zip(synthetic, target, strict=True):
        start = 0
        for shape in SHAPES:
            stop = start + shape.numel()
            if len(shape) > 1:
                width = shape.numel() // shape[0]
                for row in range(shape[0]):
                    own = slice(start + row * width, start + (row + 1) * width)
                    total += 1 - slow_cosine(a[own].tolist(), b[own].tolist())
            start = stop
    return total


@pytest.mark.parametrize("seed", range(3))
def test_distances_equal_their_slow_oracles(seed: int) -> None:
    a, b = gradients(seed)
    assert float(layer_cosine(a, b, SHAPES)) == pytest.approx(slow_layer_cosine(a, b), rel=1e-10)
    whole = sum(1 - slow_cosine(x.tolist(), y.tolist()) for x, y in zip(a, b, strict=True))
    assert float(cosine(a, b, SHAPES)) == pytest.approx(whole, rel=1e-10)
    squared = math.fsum((x - y) ** 2 for x, y in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True))
    assert float(squared_l2(a, b, SHAPES)) == pytest.approx(squared, rel=1e-10)


@pytest.mark.parametrize("name", sorted(DISTANCES))
def test_distances_are_sums_over_groups_blind_to_their_order(name: str) -> None:
    distance, (a, b) = DISTANCES[name], gradients(5)
    parts = [float(distance(x[None], y[None], SHAPES)) for x, y in zip(a, b, strict=True)]
    assert float(distance(a, b, SHAPES)) == pytest.approx(sum(parts), rel=1e-12)
    assert float(distance(a.flip(0), b.flip(0), SHAPES)) == pytest.approx(sum(parts), rel=1e-12)


@given(st.integers(0, 10**6), st.floats(1e-3, 1e3))
def test_scale_is_seen_by_the_squared_distance_only(seed: int, scale: float) -> None:
    a, b = gradients(seed)
    for distance in (cosine, layer_cosine):
        assert float(distance(a * scale, b, SHAPES)) == pytest.approx(float(distance(a, b, SHAPES)), rel=1e-6)
        assert float(distance(a, a * scale, SHAPES)) == pytest.approx(0, abs=1e-6)
    assert float(squared_l2(a, a * (1 + scale), SHAPES)) == pytest.approx(scale**2 * float(a.square().sum()), rel=1e-9)


@pytest.mark.parametrize("name", sorted(DISTANCES))
def test_the_step_goes_downhill_and_is_exact(name: str) -> None:
    distance, (a, b) = DISTANCES[name], gradients(9)
    a.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: distance(x, b, SHAPES), a)


@pytest.mark.parametrize("name", sorted(DISTANCES))
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-8])
def test_rows_near_zero_keep_a_finite_gradient(name: str, scale: float) -> None:
    a, b = (g.float() for g in gradients(3))
    a = (a * scale).requires_grad_(True)
    value = DISTANCES[name](a, b, SHAPES)
    (slope,) = torch.autograd.grad(value, a)
    assert bool(torch.isfinite(value))
    assert bool(torch.isfinite(slope).all())


def test_shapes_are_those_of_the_flat_gradient() -> None:
    model = ModelSpec("mlp", {"width": 4, "depth": 1}).build((1, 2, 2), 3, seed=0)
    assert [tuple(s) for s in parameter_shapes(model)] == [(4, 4), (4,), (3, 4), (3,)]
    next(model.parameters()).requires_grad_(False)
    assert [tuple(s) for s in parameter_shapes(model)] == [(4,), (3, 4), (3,)]


def test_a_wrong_length_is_an_error() -> None:
    a, b = gradients(0)
    with pytest.raises((RuntimeError, ValueError)):
        layer_cosine(a[:, 1:], b[:, 1:], SHAPES)
