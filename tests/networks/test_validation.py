"""Networks that break the theorem are refused; sound ones pass and are left alone."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from opacus import GradSampleModule
from torch import Tensor, nn

from private_distdd.errors import ModelError
from private_distdd.networks.validation import validate_model


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


def test_networks_for_rows_of_a_table_are_held_to_the_same() -> None:
    sound = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    validate_model(sound, (5,))
    with pytest.raises(ModelError, match="Check the row shape"):
        validate_model(sound, (6,))
    with pytest.raises(ModelError, match="mixes the examples"):
        validate_model(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)), (5,))

    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x - x.mean(0, keepdim=True))

    with pytest.raises(ModelError, match="lets one row's logits depend on the others"):
        validate_model(Centred(), (5,))
