"""Specifications of networks: values, seeds, own factories, sizes, and what is refused."""

from __future__ import annotations

import copy
import json
import math
import pickle

import pytest
import torch
from torch import nn

from private_distdd.errors import ModelError
from private_distdd.networks.register import register_model
from private_distdd.networks.spec import ModelSpec
from private_distdd.networks.validation import validate_model

GREY, COLOUR = (1, 28, 28), (3, 16, 16)


def test_seed_decides_the_weights_and_the_global_state_stays() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, same, other = (ModelSpec("resnet", {"width": 8}).build(GREY, 10, seed).state_dict() for seed in (5, 5, 6))
    validate_model(ModelSpec("mlp", {"width": 4}).build(GREY, 10), GREY)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])


def test_spec_is_a_frozen_hashable_json_value() -> None:
    spec = ModelSpec("convnet", {"width": 8, "depth": 2})
    assert spec == ModelSpec("convnet", {"depth": 2, "width": 8})
    assert hash(spec) == hash(ModelSpec("convnet", {"depth": 2, "width": 8}))
    assert spec != ModelSpec("convnet", {"depth": 2, "width": 9})
    assert ModelSpec("m", {"a": 1}) != ModelSpec("m", {"a": True})
    assert ModelSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert copy.deepcopy(spec) == spec == pickle.loads(pickle.dumps(spec))  # noqa: S301  # what multiprocessing does
    assert ModelSpec("m", {"sizes": [1, 2]}).to_json() == {"name": "m", "arguments": {"sizes": [1, 2]}}
    with pytest.raises(TypeError, match="cannot change"):
        spec.arguments["depth"] = 3  # type: ignore[index]
    assert ModelSpec("convnet", {"depth": 2}).build([1, 28, 28], 10, 0)[0].padding == (3, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ModelSpec("os.system").build(GREY, 10), "'convnet', 'lenet', 'mlp', 'resnet', 'scatter_linear'"),
        (lambda: ModelSpec("convnet", {"breadth": 3}).build(GREY, 10), "unexpected keyword argument 'breadth'"),
        (lambda: ModelSpec("convnet", {"depth": 6}).build(GREY, 10), "a depth of at most 5"),
        (lambda: ModelSpec("convnet", {"depth": 4}).build((1, 8, 8), 10), "a depth of at most 3"),
        (lambda: ModelSpec("convnet", {"width": 0}).build(GREY, 10), "width = 0"),
        (lambda: ModelSpec("convnet", {"width": True}).build(GREY, 10), "width = True"),
        (lambda: ModelSpec("convnet", {"norm": "batch"}).build(GREY, 10), "'group', 'instance', 'none'"),
        (lambda: ModelSpec("convnet", {"activation": "swish"}).build(GREY, 10), "leaky_relu"),
        (lambda: ModelSpec("convnet", {"norm": "group", "width": 6}).build(GREY, 10), "a multiple of 4"),
        (lambda: ModelSpec("resnet", {"width": 12}).build(GREY, 10), "a multiple of 8"),
        (lambda: ModelSpec("lenet").build((1, 8, 8), 10), "at least 12 x 12"),
        (lambda: ModelSpec("lenet", {"activation": "swish"}).build(GREY, 10), "leaky_relu"),
        (lambda: ModelSpec("lenet", {"pooling": "mean"}).build(GREY, 10), "'average', 'max'"),
        (lambda: ModelSpec("mlp", {"rate": float("nan")}), "finite numbers"),
        (lambda: ModelSpec("mlp", {"width": {"a": 1}}), "finite numbers"),
        (lambda: ModelSpec("mlp", {1: 2}), "string keys"),  # type: ignore[dict-item]
        (lambda: ModelSpec.from_json({"name": "mlp"}), "the fields name and arguments"),
        (lambda: register_model("convnet")(lambda shape, classes: nn.Flatten()), "a name that is not taken"),
    ],
)
def test_bad_specs_are_refused(make: object, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        make()  # type: ignore[operator]


def test_own_factory() -> None:
    @register_model("test-own-linear")
    def own(shape: tuple[int, int, int], num_classes: int, *, bias: bool = True) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], num_classes, bias))

    register_model("test-own-linear")(own)  # a notebook cell run twice
    model = ModelSpec("test-own-linear", {"bias": False}).build((1, 4, 4), 3, seed=0)
    assert model[1].bias is None
    validate_model(model, (1, 4, 4))


def test_a_spec_is_validated_once_a_process() -> None:
    built = []

    @register_model("test-counted")
    def counted(shape: tuple[int, int, int], num_classes: int, *, norm: bool = False) -> nn.Module:
        built.append(norm)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 4), *[nn.BatchNorm1d(4)] * norm, nn.Linear(4, num_classes))

    for _ in range(3):
        ModelSpec("test-counted").validate((1, 4, 4), 3)
        with pytest.raises(ModelError, match="mixes the examples"):
            ModelSpec("test-counted", {"norm": True}).validate((1, 4, 4), 3)
    assert built == [False, True, True, True]
    with pytest.raises(ModelError, match="registered name"):
        ModelSpec("test-unknown").validate((1, 4, 4), 3)


@register_model("test_models_looks_at_its_weights")
def _looking(shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    layer = nn.Linear(math.prod(shape), num_classes)
    if float(layer.weight.detach().abs().max()) > 1:  # cannot be asked of a weight without storage
        raise AssertionError
    return nn.Sequential(nn.Flatten(), layer)


def test_the_size_of_a_network_is_counted_without_making_it() -> None:
    for name, arguments in (("convnet", {"width": 8}), ("mlp", {"width": 5, "depth": 2}), ("resnet", {"width": 8})):
        spec = ModelSpec(name, arguments)
        size, model = spec.size((3, 16, 16), 7), spec.build((3, 16, 16), 7)
        assert size.parameters == sum(p.numel() for p in model.parameters())
        assert size.features == next(layer for layer in reversed(list(model.modules()))).in_features
        assert size.activations > 7
    linear = ModelSpec("mlp", {"width": 5, "depth": 1}).size((1, 4, 4), 3)
    assert linear.work == 2 * (16 * 5 + 5 * 3) + 4 * 10**5  # multiplications, additions, and a toll for each layer
    assert linear.activations == 16 + 5 + 5 + 3  # flattened, hidden, rectified, logits
    big = ModelSpec("mlp", {"width": 16384, "depth": 64}).size((1, 28, 28), 10)  # 70 GB, had it been made
    assert big.parameters > 16384**2 * 63
    assert ModelSpec("test_models_looks_at_its_weights").size((1, 4, 4), 3).parameters == 51
    with pytest.raises(ModelError, match="depth = 65"):
        ModelSpec("mlp", {"depth": 65}).size((1, 4, 4), 3)
