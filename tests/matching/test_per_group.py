"""Gradients of several groups in one pass, against a loop of autograd in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from private_distdd.matching import gradients
from private_distdd.matching.gradients import DISTANCES, distance_slope, group_gradients, parameter_shapes
from private_distdd.networks.spec import ModelSpec
from private_distdd.networks.zoo.arguments import ACTIVATIONS

CLASSES = 3


def oracle(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for own, targets in zip(images, labels, strict=True):
        loss = F.cross_entropy(model(own), targets)
        found = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
        rows.append(torch.cat([gradient.flatten() for gradient in found]))
    return torch.stack(rows)


def batch(shape: tuple[int, ...], groups: int, each: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn((groups, each, *shape), dtype=torch.float64, generator=generator).requires_grad_()
    return images, torch.randint(CLASSES, (groups, each), generator=generator)


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """In float64, with scales and shifts that are not 1 and 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.double().parameters():
            parameter += 0.3 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
    return model


def close(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and bool(
        ((found - expected).abs() <= 1e-9 * expected.abs().max().clamp(min=1e-3)).all()
    )


def agree(model: nn.Module, images: Tensor, labels: Tensor, seed: int = 0) -> bool:
    """Compares values and slopes; was there any slope to compare?"""
    found, expected = group_gradients(model, images, labels), oracle(model, images, labels)
    assert close(found, expected)
    direction = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    ours, theirs = (torch.autograd.grad((g.square() * direction).sum(), images)[0] for g in (found, expected))
    assert close(ours, theirs)
    assert all(p.grad is None for p in model.parameters())
    return bool(theirs.any())


def in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("one by one")

    monkeypatch.setattr(gradients, "_one_by_one", refuse)


convnets = st.fixed_dictionaries(
    {
        "width": st.sampled_from([4, 8]),
        "depth": st.integers(1, 3),
        "norm": st.sampled_from(["instance", "group", "none"]),
        "activation": st.sampled_from(sorted(ACTIVATIONS)),
    }
)
networks = st.one_of(
    st.tuples(st.just("convnet"), convnets),
    st.tuples(st.just("mlp"), st.fixed_dictionaries({"width": st.integers(1, 9), "depth": st.integers(1, 3)})),
    st.tuples(st.just("lenet"), st.fixed_dictionaries({"pooling": st.sampled_from(["max", "average"])})),
    st.tuples(st.just("resnet"), st.just({"width": 8})),
)


@settings(max_examples=40, deadline=None)
@given(
    networks,
    st.tuples(st.sampled_from([1, 3]), st.integers(12, 15), st.integers(12, 15)),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(0, 10**6),
)
def test_every_network_of_ours_in_one_pass(
    network: tuple[str, dict[str, Any]], shape: tuple[int, int, int], groups: int, each: int, seed: int
) -> None:
    model = shaken(ModelSpec(*network).build(shape, CLASSES, seed=seed), seed)
    with pytest.MonkeyPatch.context() as monkeypatch:
        in_one_pass(monkeypatch)
        agree(model, *batch(shape, groups, each, seed), seed)


class Foreign(nn.Module):
    """Convolves, then calls what it is given."""

    def __init__(self, last: Callable[[Foreign, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, stride=2, dilation=2, groups=2)
        self.head = nn.Linear(4, CLASSES, bias=False)
        self.norm = nn.GroupNorm(2, 4)
        self.last = last

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.last(self, torch.tanh(self.conv(images))))


ONE_PASS: dict[str, Callable[[Foreign, Tensor], Tensor]] = {
    "a mean": lambda net, x: x.mean((2, 3)),
    "a norm of vectors": lambda net, x: net.norm(x.mean((2, 3))),
    "a layer used twice": lambda net, x: net.norm(F.leaky_relu(net.norm(x))).mean((2, 3)),
    "overlapping pools, no padding counted": lambda net, x: F.avg_pool2d(x, 3, 1, 1, False, False).mean((2, 3)),
    "keywords": lambda net, x: F.avg_pool2d(F.relu(x), kernel_size=2, ceil_mode=True).mean((2, 3)),
    "one weight for every pixel": lambda net, x: F.conv2d(x, torch.ones(4, 1, 2, 2).to(x), groups=4).mean((2, 3)),
}
ONE_BY_ONE: dict[str, Callable[[Foreign, Tensor], Tensor]] = {
    "a weight outside its layer": lambda net, x: x.mean((2, 3)) * net.head.weight.sum(),
    "a weight that is computed": lambda net, x: F.linear(x.mean((2, 3)), net.norm.weight.outer(net.norm.bias)),
    "padding in words": lambda net, x: F.conv2d(x, net.conv.weight[:, :1], padding="same", groups=4).mean((2, 3)),
    "a rule's layer with weights of another": lambda net, x: F.layer_norm(
        x.mean((2, 3)), (4,), net.norm.weight, net.norm.bias
    ),
    "keywords only": lambda net, x: F.group_norm(input=x, num_groups=2, weight=net.norm.weight).mean((2, 3)),
    "three dimensions": lambda net, x: F.linear(x.flatten(2).mT, net.head.weight[:1].expand(4, 4)).mean(1),
}


@pytest.mark.parametrize("name", sorted(ONE_PASS))
def test_foreign_networks_in_one_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    in_one_pass(monkeypatch)
    assert agree(shaken(Foreign(ONE_PASS[name])), *batch((2, 9, 8), 3, 2))


@pytest.mark.parametrize("name", sorted(ONE_BY_ONE))
def test_what_has_no_rule_goes_one_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, (images, labels) = shaken(Foreign(ONE_BY_ONE[name])), batch((2, 9, 8), 3, 2)
    assert agree(model, images, labels)
    in_one_pass(monkeypatch)
    with pytest.raises(AssertionError, match="one by one"):
        group_gradients(model, images, labels)


@pytest.mark.parametrize("frozen", ["conv.weight", "conv.bias", "norm.weight", "norm.bias", "head.weight"])
def test_frozen_weights_are_constants(frozen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    in_one_pass(monkeypatch)
    model = shaken(Foreign(ONE_PASS["a layer used twice"]))
    model.get_parameter(frozen).requires_grad_(False)
    assert agree(model, *batch((2, 9, 8), 3, 2))


@pytest.mark.parametrize("name", sorted(DISTANCES))
@pytest.mark.parametrize("activations", [1, gradients._AT_ONCE // 7, gradients._AT_ONCE])
def test_the_slope_in_parts_is_the_slope_in_one(name: str, activations: int) -> None:
    model, distance = shaken(Foreign(ONE_PASS["a mean"])), DISTANCES[name]
    images, labels = batch((2, 9, 8), 5, 2)
    target = torch.randn(oracle(model, images, labels).shape, generator=torch.Generator().manual_seed(1)).double()
    expected = distance(oracle(model, images, labels), target, parameter_shapes(model))
    found, slope = distance_slope(distance, model, images, labels, target, activations)
    assert found == pytest.approx(float(expected.detach()), rel=1e-9)
    assert close(slope, torch.autograd.grad(expected, images)[0])
    assert not slope.requires_grad
