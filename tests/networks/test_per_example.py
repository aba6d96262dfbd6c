"""Per-example gradients in parts, and the rule for convolutions: as batches of one example give them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus import GradSampleModule
from torch import Tensor, nn

from private_distdd.networks import per_example
from private_distdd.networks.loss import loss_sum
from private_distdd.networks.per_example import PerExampleGradients, examples_at_once
from private_distdd.networks.spec import ModelSpec
from private_distdd.networks.zeros import fill_zeros


def one_by_one(model: nn.Module, examples: Tensor, labels: Tensor) -> Tensor:
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for example, label in zip(examples, labels, strict=True):
        gradients = torch.autograd.grad(loss_sum(model, example[None], label[None]), parameters)
        rows.append(torch.cat([g.flatten() for g in gradients]))
    return torch.stack(rows)


@settings(max_examples=40)
@given(
    st.integers(0, 10**6),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.one_of(st.sampled_from(["same", "valid"]), st.tuples(st.integers(0, 2), st.integers(0, 2))),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.sampled_from([1, 2]),
    st.booleans(),
    st.sampled_from([1, 2, 3, 64]),
    st.sampled_from([1, 100, 1 << 18]),
)
def test_convolutions_of_every_kind(
    seed: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: str | tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    bias: bool,
    at_once: int,
    unfolded: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    if padding == "same":  # torch warns of even kernels
        kernel, stride = (kernel[0] | 1, kernel[1] | 1), (1, 1)
    convolution = nn.Conv2d(2, 4, kernel, stride, padding, dilation, groups, bias)
    examples = torch.randn((5, 2, 7, 6), generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (5,), generator=generator)
    features = convolution(examples[:1].float()).numel()
    model = nn.Sequential(convolution, nn.Tanh(), nn.Flatten(), nn.Linear(features, 3)).double()
    expected = one_by_one(model, examples, labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(per_example, "_UNFOLDED", unfolded)
        found = PerExampleGradients(model, at_once).rows(examples, labels)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_group_norms_of_maps_and_of_features(groups: int, bias: bool) -> None:
    torch.manual_seed(0)
    norms = [nn.GroupNorm(own, 6) for own in (groups, min(groups, 2))]
    for norm in norms:
        nn.init.normal_(norm.weight)
        norm.bias.requires_grad_(bias)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), norms[0], nn.Tanh(), nn.Flatten(), nn.Linear(54, 6), norms[1], nn.Tanh(), nn.Linear(6, 3)
    ).double()
    examples, labels = torch.randn((5, 1, 5, 5), dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    expected = one_by_one(model, examples, labels)
    found = PerExampleGradients(model, 2).rows(examples, labels)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("convnet", {"width": 32}),
        ("convnet", {"width": 128, "depth": 2}),
        ("mlp", {}),
        ("resnet", {"width": 16}),
        ("scatter_linear", {}),
    ],
)
def test_opacus_rows_to_the_bit_and_in_parts(name: str, arguments: dict[str, int]) -> None:
    spec, shape = ModelSpec(name, arguments), (1, 16, 16)
    examples = torch.randn((64, *shape), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(64) % 10
    opacus = GradSampleModule(spec.build(shape, 10, seed=0), loss_reduction="sum")
    loss_sum(opacus, examples.clone().requires_grad_(True), labels).backward()
    theirs = torch.cat([vars(p)["grad_sample"].flatten(1) for p in opacus._module.parameters()], dim=1)
    whole = PerExampleGradients(spec.build(shape, 10, seed=0)).rows(examples, labels)
    assert torch.allclose(whole, theirs, rtol=1e-5, atol=1e-6 * float(theirs.abs().max()))
    gradients = PerExampleGradients(spec.build(shape, 10, seed=0), at_once=16)
    first, again = gradients.rows(examples, labels), gradients.rows(examples.flip(0), labels.flip(0))
    assert torch.allclose(first, theirs, rtol=1e-5, atol=1e-6 * float(theirs.abs().max()))
    assert torch.equal(first, again.flip(0))  # nothing is left of one call for the next


@pytest.mark.parametrize(
    ("shape", "at_once"), [((1, 28, 28), 16), ((3, 32, 32), 8), ((1, 8, 8), 64), ((2, 13, 11), 32)]
)
def test_rows_of_fixed_features_are_those_of_examples_to_the_bit(shape: tuple[int, int, int], at_once: int) -> None:
    model = ModelSpec("scatter_linear").build(shape, 10)
    fill_zeros(model)
    gradients = PerExampleGradients(model, at_once)
    examples = torch.randn((64, *shape), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(64) % 10
    features, rows = gradients.features(examples), gradients.rows(examples, labels)
    assert not features.requires_grad
    assert torch.equal(gradients.rows_of_features(features, labels), rows)
    odd = torch.zeros(features.numel() + 1)[1:].view_as(features).copy_(features)  # elsewhere in memory, to four bytes
    assert torch.equal(gradients.rows_of_features(odd, labels), rows)
    moved = torch.arange(64).roll(17)
    assert torch.equal(gradients.rows_of_features(features[moved], labels[moved]), rows[moved])
    assert not torch.equal(gradients.rows_of_features(features[moved], labels), rows)


class Twice(nn.Module):
    """One layer at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.layer(torch.tanh(self.layer(x)))))  # type: ignore[no-any-return]


def test_a_layer_that_is_used_twice_adds_up() -> None:
    torch.manual_seed(0)
    model = Twice().double()
    examples, labels = torch.randn((6, 4), dtype=torch.float64), torch.tensor([0, 1] * 3)
    expected = one_by_one(model, examples, labels)
    assert torch.allclose(PerExampleGradients(model, 4).rows(examples, labels), expected, rtol=1e-10)


class Placed(nn.Module):
    """With an embedding of places, whose input does not depend on the examples."""

    def __init__(self) -> None:
        super().__init__()
        self.places, self.frozen, self.head = nn.Embedding(4, 3), nn.Linear(3, 3), nn.Linear(12, 2)
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        places = self.places(torch.arange(4).expand(len(x), 4))
        return self.head(torch.tanh(self.frozen(x[:, :, None] * places)).flatten(1))  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_a_layer_apart_from_the_examples_is_met_too() -> None:
    torch.manual_seed(0)
    model = Placed().double()
    examples, labels = torch.randn((6, 4), dtype=torch.float64), torch.tensor([0, 1] * 3)
    expected = one_by_one(model, examples, labels)
    gradients = PerExampleGradients(model, 4)
    for _ in range(2):
        assert torch.allclose(gradients.rows(examples, labels), expected, rtol=1e-10)
    assert expected[:, :12].abs().min() > 0


@pytest.mark.parametrize(
    ("activations", "expected"),
    [(0, 64), (50_000, 64), (140_298, 32), (280_586, 16), (561_162, 8), (2_244_612, 2), (10**9, 1)],
)
def test_large_networks_are_computed_in_parts(activations: int, expected: int) -> None:
    assert examples_at_once(activations) == expected
