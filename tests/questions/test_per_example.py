"""Per-example gradients: right against slow oracles, and bit for bit blind to whoever rides along (A2)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from private_distdd.errors import ModelError
from private_distdd.matching.gradients import group_gradients
from private_distdd.networks.loss import loss_sum
from private_distdd.networks.micro_batch import MICRO_BATCH, micro_batches
from private_distdd.networks.per_example import PerExampleGradients
from private_distdd.networks.spec import ModelSpec
from private_distdd.networks.zeros import fill_zeros
from private_distdd.privacy.mechanism import LATTICE, lattice_sums
from private_distdd.questions.per_example import clipped_class_sums, sum_gradient

SHAPE, CLASSES = (1, 12, 12), 4
MODELS: dict[str, dict[str, Any]] = {
    "convnet": {"width": 8, "depth": 2},
    "mlp": {"width": 16},
    "lenet": {},
    "resnet": {"width": 8},
    "scatter_linear": {},
}
VARIANTS = [
    *MODELS.items(),
    ("convnet", {"width": 4, "depth": 1, "norm": "none", "activation": "tanh"}),
    ("convnet", {"width": 8, "depth": 2, "norm": "group", "activation": "gelu"}),
]
model_names = st.sampled_from(sorted(MODELS))


def build(name: str, arguments: dict[str, Any] | None = None, seed: int = 1) -> nn.Module:
    model = ModelSpec(name, MODELS[name] if arguments is None else arguments).build(SHAPE, CLASSES, seed)
    fill_zeros(model)  # a linear softmax starts from them
    return model


def batch(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn((n, *SHAPE), generator=generator)
    return images, torch.randint(CLASSES, (n,), generator=generator).sort().values


def slow_clipped_sums(model: nn.Module, images: Tensor, labels: Tensor, max_grad_norm: float) -> Tensor:
    """One example at a time, in float64, without hooks, lattice or vectors."""
    wide = copy.deepcopy(model).double()
    parameters = [p for p in wide.parameters() if p.requires_grad]
    sums = torch.zeros(CLASSES, sum(p.numel() for p in parameters), dtype=torch.float64)
    for image, label in zip(images.double(), labels.tolist(), strict=True):
        loss = -F.log_softmax(wide(image[None]), dim=1)[0, label]
        row = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters)])
        sums[label] += row * min(1.0, max_grad_norm / float(row.norm()))
    return sums


@pytest.mark.parametrize(("name", "arguments"), VARIANTS)
def test_clipped_class_sums_equal_the_slow_oracle(name: str, arguments: dict[str, Any]) -> None:
    model, (images, labels) = build(name, arguments), batch(70)  # more than one micro-batch
    typical = float(slow_clipped_sums(model, images[:1], labels[:1], math.inf).norm())
    for max_grad_norm in (typical * 0.5, typical * 1.01, typical * 100):
        found = clipped_class_sums(model, images, labels, CLASSES, max_grad_norm)
        expected = slow_clipped_sums(model, images, labels, max_grad_norm)
        assert found.dtype == torch.float32
        assert found.shape == expected.shape
        tolerance = 2e-5 * min(max_grad_norm, typical) * 10 + 70 * max_grad_norm / LATTICE
        assert float((found - expected).abs().max()) < tolerance
        wrong = slow_clipped_sums(
            model, images, labels, max_grad_norm * 0.9 if max_grad_norm < typical else typical * 0.3
        )
        assert float((found - wrong).abs().max()) > tolerance  # the tolerance can tell another C


def test_class_sums_without_examples_and_out_of_order() -> None:
    model, (images, labels) = build("mlp"), batch(20)
    assert not clipped_class_sums(model, images[:0], labels[:0], CLASSES, 1.0).any()
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    mixed = clipped_class_sums(model, images[order], labels[order], CLASSES, 1.0)
    assert torch.equal(mixed, clipped_class_sums(model, images, labels, CLASSES, 1.0))  # exact: integer sums


def lattice(model: nn.Module, images: Tensor, labels: Tensor, max_grad_norm: float = 1.0) -> Tensor:
    gradients = PerExampleGradients(copy.deepcopy(model))
    parts = ((gradients.rows(part, own), own[:count]) for part, own, count in micro_batches(images, labels))
    return lattice_sums(parts, CLASSES, gradients.dimension, max_grad_norm)


def all_rows(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    gradients = PerExampleGradients(copy.deepcopy(model))
    return torch.cat([gradients.rows(part, own)[:count] for part, own, count in micro_batches(images, labels)])


def same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))


@settings(max_examples=12)
@given(model_names, st.integers(1, 130), st.integers(0, 10**6), st.data())
def test_one_example_moves_exactly_its_class_by_at_most_c(name: str, n: int, seed: int, data: st.DataObject) -> None:
    model, (images, labels) = build(name), batch(n, seed)
    images = images * data.draw(st.sampled_from([1e-3, 1.0, 30.0]))
    z = data.draw(st.integers(0, n - 1))
    max_grad_norm = data.draw(st.sampled_from([1e-3, 0.5, 1e3]))
    rest = torch.arange(n) != z
    difference = lattice(model, images, labels, max_grad_norm) - lattice(
        model, images[rest], labels[rest], max_grad_norm
    )
    for label in range(CLASSES):
        if label != labels[z]:
            assert not difference[label].any()
    own = difference[labels[z]]
    assert sum(int(k) ** 2 for k in own[own != 0].tolist()) <= 2**40
    alone = lattice(model, images[z : z + 1], labels[z : z + 1], max_grad_norm)
    assert torch.equal(difference, alone)


@settings(max_examples=12)
@given(model_names, st.integers(2, 100), st.integers(0, 10**6), st.integers(0, 70))
def test_bits_do_not_depend_on_place_or_company(name: str, n: int, seed: int, moved: int) -> None:
    model, (images, labels) = build(name), batch(n, seed)
    rows = all_rows(model, images, labels)
    assert bool(rows.any())
    others, theirs = batch(moved, seed + 1)
    # Insert others at the front: every example moves to another place, many to another micro-batch.
    shifted = all_rows(model, torch.cat([others, images]), torch.cat([theirs, labels]))[moved:]
    assert same_bits(shifted, rows)
    keep = torch.arange(n) % 2 == 0
    for poison in (0.0, math.nan, math.inf, 1e30):
        spoilt = images.clone()
        spoilt[~keep] = poison
        assert same_bits(all_rows(model, spoilt, labels)[keep], rows[keep])
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    assert same_bits(all_rows(model, images[order], labels[order]), rows[order])
    assert same_bits(all_rows(model, images[:1], labels[:1]), rows[:1])
    relabelled = torch.where(keep, labels, (labels + 1) % CLASSES)
    assert same_bits(all_rows(model, images, relabelled)[keep], rows[keep])


@pytest.mark.parametrize("poison", [math.nan, math.inf, 3e38])
def test_a_poisoned_example_counts_as_zero(poison: float) -> None:
    model, (images, labels) = build("convnet"), batch(10)
    spoilt = images.clone()
    spoilt[3] = poison
    rest = torch.arange(10) != 3
    difference = lattice(model, spoilt, labels) - lattice(model, images[rest], labels[rest])
    assert sum(int(k) ** 2 for k in difference.flatten().tolist()) <= 2**40
    if math.isnan(poison):
        assert not difference.any()


@pytest.mark.parametrize("weight", [math.nan, math.inf, 1e38])
def test_hostile_weights_give_sums_within_bounds(weight: float) -> None:
    model, (images, labels) = build("mlp"), batch(10)
    with torch.no_grad():
        next(model.parameters()).fill_(weight)
    sums = clipped_class_sums(model, images, labels, CLASSES, 1.0)
    assert bool(torch.isfinite(sums).all())
    assert float(sums.norm(dim=1).max()) <= 10


@pytest.mark.parametrize(("n", "counts"), [(MICRO_BATCH + 3, [MICRO_BATCH, 3]), (0, [0]), (MICRO_BATCH, [MICRO_BATCH])])
def test_micro_batches_have_one_size(n: int, counts: list[int]) -> None:
    images, labels = batch(n)
    gradients = PerExampleGradients(build("mlp"))
    parts = list(micro_batches(images, labels))
    assert [count for *_, count in parts] == counts
    assert [len(gradients.rows(part, own)) for part, own, _ in parts] == [MICRO_BATCH] * len(counts)
    assert torch.equal(torch.cat([part[:count] for part, _, count in parts]), images)
    assert torch.equal(torch.cat([own[:count] for _, own, count in parts]), labels)
    assert not any(bool(part[count:].any()) or bool(own[count:].any()) for part, own, count in parts)


def test_the_network_is_as_before_and_free_of_hooks() -> None:
    model, (images, labels) = build("convnet"), batch(5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = clipped_class_sums(model, images, labels, CLASSES, 1.0)
    assert torch.equal(clipped_class_sums(model, images, labels, CLASSES, 1.0), first)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and getattr(p, "grad_sample", None) is None for p in model.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
    images.requires_grad_(True)  # a second derivative, as the server needs it
    (gradient,) = torch.autograd.grad(loss_sum(model, images, labels), [next(model.parameters())], create_graph=True)
    assert bool(torch.autograd.grad(gradient.square().sum(), images)[0].any())


def test_gradients_are_taken_even_where_they_were_switched_off() -> None:
    model, (images, labels) = build("mlp"), batch(5)
    expected = clipped_class_sums(model, images, labels, CLASSES, 1.0)
    with torch.no_grad():
        assert torch.equal(clipped_class_sums(model, images, labels, CLASSES, 1.0), expected)


def test_frozen_parameters_are_left_out() -> None:
    model, (images, labels) = build("mlp"), batch(5)
    next(model.parameters()).requires_grad_(False)
    sums = clipped_class_sums(model, images, labels, CLASSES, 100.0)
    assert torch.allclose(sums.double(), slow_clipped_sums(model, images, labels, 100.0), atol=1e-3)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ModelError, match="trainable"):
        PerExampleGradients(model)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_sum_gradient_is_the_sum(name: str) -> None:
    model, (images, labels) = build(name), batch(9)
    expected = slow_clipped_sums(model, images, labels, math.inf).sum(dim=0)
    found = sum_gradient(model, images, labels)
    assert torch.allclose(found.double(), expected, atol=1e-4 * float(expected.abs().max()))


def loop_of_autograd(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for own, targets in zip(images, labels, strict=True):
        gradients = torch.autograd.grad(F.cross_entropy(model(own), targets), parameters, create_graph=True)
        rows.append(torch.cat([g.reshape(-1) for g in gradients]))
    return torch.stack(rows)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_group_gradients_equal_a_loop_of_autograd(name: str) -> None:
    model = build(name).double()
    images = batch(6)[0].double().reshape(3, 2, *SHAPE).requires_grad_(True)
    labels = torch.tensor([[0, 0], [1, 2], [3, 3]])
    found, expected = group_gradients(model, images, labels), loop_of_autograd(model, images, labels)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)
    weights = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours, theirs = (torch.autograd.grad((g * weights).sum(), images)[0] for g in (found, expected))
    assert bool(theirs.any())
    assert torch.allclose(ours, theirs, rtol=1e-7, atol=1e-10)
    assert all(p.grad is None for p in model.parameters())


def test_group_gradients_of_a_partly_frozen_network() -> None:
    model = build("mlp").double()
    next(model.parameters()).requires_grad_(False)
    images, labels = batch(2)[0].double().reshape(2, 1, *SHAPE), torch.tensor([[0], [1]])
    assert torch.allclose(group_gradients(model, images, labels), loop_of_autograd(model, images, labels))


def test_default_generators_are_left_alone() -> None:
    model, (images, labels) = build("convnet"), batch(5)
    before: Callable[[], Tensor] = torch.get_rng_state
    state = before()
    clipped_class_sums(model, images, labels, CLASSES, 1.0)
    assert torch.equal(torch.get_rng_state(), state)
