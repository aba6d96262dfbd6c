"""Registered networks: shapes, sizes, and per-example gradients against a one-at-a-time oracle."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from opacus import GradSampleModule
from torch import Tensor, nn

from private_distdd.errors import ModelError
from private_distdd.networks.register import registered_models
from private_distdd.networks.spec import ModelSpec
from private_distdd.networks.validation import validate_model
from private_distdd.networks.zoo.arguments import ACTIVATIONS

GREY, COLOUR = (1, 28, 28), (3, 16, 16)


SMALL = [
    *(ModelSpec("convnet", {"width": 8, "depth": 2, "activation": name}) for name in ACTIVATIONS),
    *(ModelSpec("convnet", {"width": 8, "depth": 2, "norm": name}) for name in ("group", "none")),
    ModelSpec("convnet", {"width": 4, "depth": 3}),
    ModelSpec("convnet", {"width": 8, "depth": 2, "pooling": "max"}),
    ModelSpec("lenet"),
    ModelSpec("lenet", {"activation": "tanh", "pooling": "average"}),
    ModelSpec("mlp", {"width": 16, "depth": 3}),
    ModelSpec("resnet", {"width": 8, "blocks": 2}),
    ModelSpec("scatter_linear"),
]


def oracle(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """[n, num_parameters]: one backward pass in float64 for each example, without hooks."""
    model = copy.deepcopy(model).double()
    rows = []
    for image, label in zip(images.double(), labels, strict=True):
        gradients = torch.autograd.grad(F.cross_entropy(model(image[None]), label[None]), list(model.parameters()))
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(rows)


def hooked(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """[n, num_parameters]: all at once, by Opacus' hooks."""
    wrapped = GradSampleModule(copy.deepcopy(model), loss_reduction="sum")
    F.cross_entropy(wrapped(images.clone().requires_grad_()), labels, reduction="sum").backward()
    return torch.cat([parameter.grad_sample.flatten(1) for parameter in wrapped.parameters()], dim=1)


@pytest.mark.parametrize("spec", SMALL, ids=lambda spec: f"{spec.name}-{'-'.join(map(str, spec.arguments.values()))}")
@pytest.mark.parametrize("shape", [GREY, COLOUR], ids=["grey", "colour"])
def test_per_example_gradients_equal_one_example_at_a_time(spec: ModelSpec, shape: tuple[int, int, int]) -> None:
    model = spec.build(shape, 5, seed=1)
    images = torch.randn((6, *shape), generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([0, 1, 2, 3, 4, 1])
    expected = oracle(model, images, labels)
    # Relative to each example's whole gradient, which is what gets clipped.
    norms = expected.norm(dim=1)
    assert ((hooked(model, images, labels).double() - expected).norm(dim=1) < 1e-4 * norms).all()
    assert ((hooked(model.double(), images.double(), labels) - expected).norm(dim=1) < 1e-10 * norms).all()
    # The comparison can fail: gradients of other labels are far away.
    assert ((hooked(model, images.double(), labels.flip(0)) - expected).norm(dim=1)[:2] > 0.1 * norms[:2]).all()
    validate_model(model.float(), shape)


def test_sizes_are_those_of_the_literature() -> None:
    def count(name: str, shape: tuple[int, int, int]) -> int:
        return sum(parameter.numel() for parameter in ModelSpec(name).build(shape, 10, 0).parameters())

    assert count("convnet", GREY) == 317_706  # DC's ConvNet on MNIST, padded to 32 x 32: 128 * 4 * 4 features
    assert count("convnet", (3, 32, 32)) == 320_010  # ConvNet-D3-W128 on CIFAR-10
    assert count("lenet", GREY) == 61_706
    assert count("mlp", GREY) == 784 * 128 + 128 + 128 * 128 + 128 + 128 * 10 + 10
    for name in registered_models():
        if name in ("convnet", "lenet", "mlp", "resnet", "scatter_linear"):
            assert ModelSpec(name).build(GREY, 7, 0)(torch.zeros(2, *GREY)).shape == (2, 7)


def test_lenet_of_choice_is_smooth_and_the_default_is_as_it_was() -> None:
    def kinds(**arguments: str) -> list[str]:
        return [type(layer).__name__ for layer in ModelSpec("lenet", arguments).build(GREY, 10, 0).children()]

    rectified = kinds()
    assert (rectified.count("ReLU"), rectified.count("MaxPool2d")) == (4, 2)
    smooth = kinds(activation="tanh", pooling="average")
    assert (smooth.count("Tanh"), smooth.count("AvgPool2d")) == (4, 2)


def test_a_convnet_s_pooling_changes_no_weight_and_batch_norm_is_refused_with_its_reason() -> None:
    spec = ModelSpec("convnet", {"width": 8})
    pooled = ModelSpec("convnet", {"width": 8, "pooling": "max"})
    own, others = (each.build(GREY, 10, 0).state_dict() for each in (spec, pooled))
    assert list(own) == list(others)
    assert all(torch.equal(own[name], others[name]) for name in own)
    kinds = [type(layer).__name__ for layer in pooled.build(GREY, 10, 0).children()]
    assert (kinds.count("MaxPool2d"), kinds.count("AvgPool2d")) == (3, 0)
    with pytest.raises(ModelError, match=r"norm = 'batch'.*mixes the examples"):
        ModelSpec("convnet", {"norm": "batch"}).build(GREY, 10, 0)
    with pytest.raises(ModelError, match="pooling = 'median'; allowed: one of"):
        ModelSpec("convnet", {"pooling": "median"}).build(GREY, 10, 0)


def test_default_convnet_passes_on_every_data_set() -> None:
    for shape in ((1, 8, 8), GREY):
        validate_model(ModelSpec("convnet").build(shape, 10, 0), shape)


@pytest.mark.parametrize("features", [1, 4, 13, 30])
@pytest.mark.parametrize("arguments", [{}, {"width": 16, "depth": 3}])
def test_mlp_takes_rows_of_a_table_with_right_per_example_gradients(features: int, arguments: dict[str, int]) -> None:
    spec = ModelSpec("mlp", arguments)
    model = spec.build((features,), 3, seed=1)
    rows = torch.randn((6, features), generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    assert model(rows).shape == (6, 3)
    expected = oracle(model, rows, labels)
    norms = expected.norm(dim=1)
    assert ((hooked(model, rows, labels).double() - expected).norm(dim=1) < 1e-4 * norms).all()
    spec.validate((features,), 3)
    assert spec.size((features,), 3).parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", ["convnet", "lenet", "resnet", "scatter_linear"])
def test_networks_for_images_refuse_tables_and_name_one_that_does_not(name: str) -> None:
    for call in ("build", "validate", "size"):
        with pytest.raises(ModelError, match=f"'{name}' for rows of 13 features; allowed: images. Use 'mlp'"):
            getattr(ModelSpec(name), call)((13,), 3)
