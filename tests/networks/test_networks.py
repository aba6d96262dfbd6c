"""Registered models: shapes, seeds, and per-example gradients against a one-at-a-time oracle; what is refused."""

from __future__ import annotations

import copy
import json
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from opacus import GradSampleModule
from torch import Tensor, nn

from private_distdd.errors import ModelError
from private_distdd.networks.register import register_model, registered_models
from private_distdd.networks.spec import ModelSpec
from private_distdd.networks.validation import validate_model
from private_distdd.networks.zoo import ACTIVATIONS

GREY, COLOUR = (1, 28, 28), (3, 16, 16)
SMALL = [
    *(ModelSpec("convnet", {"width": 8, "depth": 2, "activation": name}) for name in ACTIVATIONS),
    *(ModelSpec("convnet", {"width": 8, "depth": 2, "norm": name}) for name in ("group", "none")),
    ModelSpec("convnet", {"width": 4, "depth": 3}),
    ModelSpec("lenet"),
    ModelSpec("lenet", {"activation": "tanh", "pooling": "average"}),
    ModelSpec("mlp", {"width": 16, "depth": 3}),
    ModelSpec("resnet", {"width": 8, "blocks": 2}),
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
        if name in ("convnet", "lenet", "mlp", "resnet"):
            assert ModelSpec(name).build(GREY, 7, 0)(torch.zeros(2, *GREY)).shape == (2, 7)


def test_lenet_of_choice_is_smooth_and_the_default_is_as_it_was() -> None:
    def kinds(**arguments: str) -> list[str]:
        return [type(layer).__name__ for layer in ModelSpec("lenet", arguments).build(GREY, 10, 0).children()]

    rectified = kinds()
    assert (rectified.count("ReLU"), rectified.count("MaxPool2d")) == (4, 2)
    smooth = kinds(activation="tanh", pooling="average")
    assert (smooth.count("Tanh"), smooth.count("AvgPool2d")) == (4, 2)


def test_default_convnet_passes_on_every_data_set() -> None:
    for shape in ((1, 8, 8), GREY):
        validate_model(ModelSpec("convnet").build(shape, 10, 0), shape)


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
        (lambda: ModelSpec("os.system").build(GREY, 10), "'convnet', 'lenet', 'mlp', 'resnet'"),
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


class Net(nn.Module):
    """A convolution, then whatever the test puts in, then a linear layer; images 1 x 6 x 6."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(64, 3)

    def middle(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.conv(x)).flatten(1))


class Centred(Net):
    def middle(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True)


class InPlace(Net):
    def middle(self, x: Tensor) -> Tensor:
        return x.relu_()


class FunctionalDropout(Net):
    def middle(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, self.training)


class Counting(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1), persistent=False)

    def middle(self, x: Tensor) -> Tensor:
        self.seen += 1
        return x


class Drifting(Net):
    calls = 0

    def middle(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


class Infinite(Net):
    def middle(self, x: Tensor) -> Tensor:
        return x / 0


class Direct(Net):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4, 1, 1))

    def middle(self, x: Tensor) -> Tensor:
        return x * self.scale


class Functional(Net):
    """Uses a layer's weight behind the back of its hooks."""

    def middle(self, x: Tensor) -> Tensor:
        return x * self.conv.weight.sum()


class Unused(Net):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(2, 2)


class Tied(Net):
    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Conv2d(1, 4, 3)
        self.second.weight = self.conv.weight


class FixedBatch(Net):
    def middle(self, x: Tensor) -> Tensor:
        return x.view(4, 4, 4, 4)


class Recurrent(Net):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(16, 16, batch_first=True)

    def middle(self, x: Tensor) -> Tensor:
        return self.rnn(x.flatten(2))[0]


def conv(**options: object) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, **options), nn.Flatten(), nn.Linear(144 if "padding" in options else 64, 3))


def with_layer(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), layer, nn.Flatten(), nn.Linear(64, 3))


def frozen() -> nn.Module:
    return Net().requires_grad_(False)


REFUSED = {
    "batch norm": (lambda: with_layer(nn.BatchNorm2d(4)), r"layer '1' \(BatchNorm2d\) mixes.*GroupNorm"),
    "batch norm without statistics": (
        lambda: with_layer(nn.BatchNorm2d(4, affine=False, track_running_stats=False)),
        "mixes the examples",
    ),
    "sync batch norm": (lambda: with_layer(nn.SyncBatchNorm(4)), "SyncBatchNorm.*mixes the examples"),
    "instance norm with statistics": (
        lambda: with_layer(nn.InstanceNorm2d(4, track_running_stats=True)),
        "track_running_stats=False",
    ),
    "in-place relu": (lambda: with_layer(nn.ReLU(inplace=True)), r"layer '1' \(ReLU\).*inplace=False"),
    "in-place functional": (InPlace, "no in-place operation"),
    "reflect padding": (lambda: conv(padding=1, padding_mode="reflect"), "padding_mode='reflect'.*ReflectionPad2d"),
    "circular padding": (lambda: conv(padding=1, padding_mode="circular"), "padding_mode='circular'"),
    "dropout": (lambda: with_layer(nn.Dropout2d(0.1)), "shared random state"),
    "functional dropout": (FunctionalDropout, "draws random numbers"),
    "random relu": (lambda: with_layer(nn.RReLU()), "draws random numbers"),
    "lstm": (Recurrent, r"layer 'rnn' \(LSTM\).*no per-example gradients"),
    "attention": (
        lambda: with_layer(nn.TransformerEncoderLayer(4, 2, dropout=0)),
        r"'1.self_attn' \(MultiheadAttention\)",
    ),
    "prelu": (lambda: with_layer(nn.PReLU()), r"PReLU.*Conv2d.*GroupNorm.*Linear"),
    "transposed convolution": (lambda: with_layer(nn.ConvTranspose2d(4, 4, 1)), "ConvTranspose2d"),
    "own parameter": (Direct, r"the network itself.*'scale'"),
    "spectral norm": (lambda: with_layer(nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 1))), "Parametriz"),
    "tied weights": (Tied, "'second.weight' with 'conv.weight'"),
    "one layer twice": (lambda: with_layer(nn.Sequential(*[nn.Conv2d(4, 4, 1)] * 2)), "shares parameter"),
    "weight behind the hooks": (Functional, "gradients of 'conv.weight' are wrong"),
    "unused layer": (Unused, "'spare.weight' are wrong or missing"),
    "all frozen": (frozen, "without trainable parameters"),
    "buffer that changes": (Counting, "changes its buffers"),
    "state outside buffers": (Drifting, "other logits the second time"),
    "infinite": (Infinite, "NaN or infinite"),
    "centred over the batch": (Centred, "depend on the others"),
    "fixed batch size": (FixedBatch, "batch size"),
    "images for logits": (lambda: nn.Sequential(nn.Conv2d(1, 4, 3)), "one row of logits"),
    "wrong image shape": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(10, 3)), "Check the image shape"),
    "hooked already": (lambda: GradSampleModule(Net(), loss_reduction="sum"), "plain nn.Module"),
    "hooks left behind": (lambda: GradSampleModule(Net(), loss_reduction="sum")._module, "plain nn.Module"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_models_that_break_the_theorem_are_refused(case: str) -> None:
    make, says = REFUSED[case]
    with pytest.raises(ModelError, match=says):
        validate_model(make(), (1, 6, 6))


@pytest.mark.parametrize(
    "make",
    [
        Net,
        lambda: with_layer(nn.LayerNorm([4, 4, 4])),
        lambda: with_layer(nn.InstanceNorm2d(4, affine=True)),
        lambda: nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 3)),
        lambda: conv(padding="same", bias=False),
        lambda: with_layer(nn.Conv2d(4, 4, 3, padding=1, groups=2)),
        lambda: with_layer(nn.Conv2d(4, 4, 1).requires_grad_(False)),
    ],
)
def test_sound_models_pass_and_are_left_alone(make: object) -> None:
    model = make()  # type: ignore[operator]
    before = copy.deepcopy(model.state_dict())
    validate_model(model.eval(), (1, 6, 6))
    assert not model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
    assert not any(hasattr(parameter, "grad_sample") for parameter in model.parameters())


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
