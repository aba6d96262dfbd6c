"""The scattering transform against Kymatio's, its symmetries and derivatives; and the network on it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kymatio import Scattering2D
from torch import Tensor

from private_distdd import DatasetInfo, ImageDataset, ModelSpec, evaluate
from private_distdd.errors import ModelError
from private_distdd.networks import scattering
from private_distdd.networks.embedding import Embedding, EmbeddingSpec
from private_distdd.networks.per_example import PerExampleGradients
from private_distdd.networks.scattering import ANGLES, Scattering
from private_distdd.networks.zeros import fill_zeros
from private_distdd.questions.class_gradients import ClassGradients
from private_distdd.questions.places import require_places_alike

SHAPES = [(28, 28), (32, 32), (5, 5), (5, 7), (6, 31), (29, 18)]
FINE, COARSE = slice(1, 1 + ANGLES), slice(1 + ANGLES, 1 + 2 * ANGLES)


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def far(found: Tensor, expected: np.ndarray) -> float:
    """The largest difference of each order, over the largest coefficient of that order."""
    differences = []
    for order in (slice(1), FINE, COARSE, slice(1 + 2 * ANGLES, None)):
        own = expected[:, :, order]
        differences.append(float(np.abs(found.numpy()[:, :, order] - own).max() / np.abs(own).max()))
    return max(differences)


@pytest.mark.parametrize("sides", SHAPES)
def test_coefficients_are_those_of_kymatio(sides: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = images(3, 2, *sides)
    expected = Scattering2D(J=2, shape=sides, L=8, frontend="numpy")(pictures.numpy())
    found = Scattering(*sides)(pictures)
    assert found.shape == (3, 2, 81, sides[0] // 4, sides[1] // 4)
    assert found.dtype == torch.float32
    assert far(found, expected) < 3e-6
    assert far(Scattering(*sides).double()(pictures.double()), expected) < 1e-6  # its filters are of single precision
    # The comparison can fail: a wavelet that is 0.1 % wider, or turned by half a degree, is far away.
    gabor = scattering._gabor
    for wider, turned in ((1.001, 0.0), (1.0, math.pi / 360)):
        monkeypatch.setattr(
            scattering,
            "_gabor",
            lambda sides, sigma, slant, angle, frequency, wider=wider, turned=turned: gabor(
                sides, sigma * wider, slant, angle + turned, frequency
            ),
        )
        assert far(Scattering(*sides)(pictures), expected) > 1e-4


def test_a_wave_is_seen_by_its_own_wavelet() -> None:
    down, right = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    for scale, order in ((0, FINE), (1, COARSE)):
        for angle in range(ANGLES):
            direction = (3 - angle) * math.pi / ANGLES
            phase = 0.75 * math.pi / 2**scale * (math.cos(direction) * down + math.sin(direction) * right)
            response = Scattering(32, 32)(phase.cos()[None, None])[0, 0, :, 4, 4]
            assert int(response[order].argmax()) == angle
            assert int(response[1 : 1 + 2 * ANGLES].argmax()) == scale * ANGLES + angle


def test_transposed_images_have_transposed_coefficients_of_turned_wavelets() -> None:
    pictures = images(2, 1, 20, 29)
    turned = (2 - torch.arange(ANGLES)) % ANGLES  # what turns the angle into 90 degrees minus it
    pairs = 1 + 2 * ANGLES + (turned[:, None] * ANGLES + turned).flatten()
    channels = torch.cat([torch.tensor([0]), 1 + turned, 1 + ANGLES + turned, pairs])
    found, expected = Scattering(29, 20)(pictures.mT), Scattering(20, 29)(pictures)[:, :, channels].mT
    assert torch.allclose(found, expected, atol=1e-6)
    assert not torch.allclose(found, expected.roll(1, 2), atol=1e-3)


def test_a_flat_image_has_its_mean_and_nothing_else() -> None:
    coefficients = Scattering(16, 21)(torch.full((1, 1, 16, 21), 3.0))
    assert torch.allclose(coefficients[:, :, 0], torch.tensor(3.0), rtol=1e-4)
    assert float(coefficients[:, :, 1:].abs().max()) < 1e-5


def test_derivatives_are_right_and_finite_where_a_modulus_is_zero() -> None:
    transform = Scattering(5, 6).double()
    assert torch.autograd.gradcheck(transform, (images(1, 1, 5, 6).double().requires_grad_(),))
    body = ModelSpec("scatter_linear").build((1, 8, 8), 3)[:-1].double()
    picture = images(1, 1, 8, 8).double().requires_grad_()
    assert torch.autograd.gradcheck(body, (picture,), rtol=1e-4)
    for kind in (torch.float32, torch.float64):
        for value in (0.0, 1.0, 1e6):
            flat = torch.full((1, 1, 8, 8), value, dtype=kind, requires_grad=True)
            (slope,) = torch.autograd.grad(body.to(kind)(flat).sum(), flat)
            assert slope.isfinite().all()


@pytest.mark.parametrize(
    ("shape", "arguments", "inputs"),
    [
        ((1, 28, 28), {}, 3972),  # 81 * 7 * 7 = 3969, and 3 zeros
        ((1, 28, 28), {"pool": 2}, 1296),  # 7 places make 4: the last ones stand alone
        ((3, 32, 32), {"pool": 2, "groups": 9, "norm": 1.0}, 3888),
        ((2, 5, 9), {}, 324),
    ],
)
def test_the_network_is_a_linear_layer_on_features_of_one_norm(
    shape: tuple[int, int, int], arguments: dict[str, float], inputs: int
) -> None:
    spec = ModelSpec("scatter_linear", arguments)
    spec.validate(shape, 10)
    network = spec.build(shape, 10, seed=1)
    assert {name: tuple(t.shape) for name, t in network.state_dict().items()} == {
        "6.weight": (10, inputs),
        "6.bias": (10,),
    }
    assert not any(t.any() for t in network.state_dict().values())
    pictures = torch.cat([images(5, *shape), 1e-4 * images(1, *shape), 1e6 * images(1, *shape)])
    features = network[:-1](pictures)
    assert torch.allclose(features.norm(dim=1), torch.tensor(float(arguments.get("norm", 5))), rtol=1e-5)
    coefficients = Scattering(*shape[1:])(pictures).flatten(1, 2)
    if "pool" in arguments:
        coefficients = F.avg_pool2d(coefficients, 2, ceil_mode=True)
    groups = arguments.get("groups", 27 * shape[0])
    by_hand = coefficients.unflatten(1, (int(groups), -1)).flatten(2)
    by_hand = by_hand - by_hand.mean(dim=2, keepdim=True)
    by_hand = (by_hand / (by_hand.var(dim=2, correction=0, keepdim=True) + 1e-5).sqrt()).flatten(1)
    by_hand = by_hand / by_hand.norm(dim=1, keepdim=True) * arguments.get("norm", 5)
    assert torch.allclose(features[:, : by_hand.shape[1]], by_hand, atol=1e-4)
    assert not features[:, by_hand.shape[1] :].any()


def test_its_cost_is_counted_and_nothing_is_made() -> None:
    spec = ModelSpec("scatter_linear", {"pool": 2})
    with torch.device("meta"):
        network = spec.build((1, 28, 28), 10)
    assert all(tensor.is_meta for tensor in (*network.parameters(), *network.buffers()))
    size = spec.size((1, 28, 28), 10)
    assert (size.parameters, size.features) == (12_970, 1296)
    # At least the values of 80 wave planes, real and imaginary, and their moduli: 8 of 36 x 36 pixels, 72 of 18 x 18.
    assert 3 * (8 * 36**2 + 72 * 18**2) < size.activations < 3e5
    assert 1e7 < size.work < 3e7
    larger = spec.size((1, 56, 56), 10)
    assert 3 < larger.activations / size.activations < 4
    assert spec.size((3, 28, 28), 10).work > 2.5 * (size.work - 20 * 10**5)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (2, 13, 11)])
def test_rows_have_the_same_bits_in_every_place_and_are_those_of_plain_gradients(shape: tuple[int, int, int]) -> None:
    info = DatasetInfo("noise", 10, shape)
    spec = ModelSpec("scatter_linear")
    network = spec.build(shape, 10)
    fill_zeros(network)
    arguments = {"model": spec.to_json(), "granularity": "class"}
    question = ClassGradients(arguments, network.state_dict(), info, "cpu")
    require_places_alike("class_gradients", arguments, info, "cpu", question)
    assert question.public().rows(images(64, *shape), torch.zeros(64, dtype=torch.int64)).isfinite().all()
    examples, labels = images(64, *shape), torch.arange(64) % 10
    rows = question.rows(examples, labels)
    features = network[:-1](examples)
    errors = network(examples).softmax(1) - F.one_hot(labels, 10)
    expected = torch.cat([(errors[:, :, None] * features[:, None]).flatten(1), errors], dim=1)
    assert torch.allclose(rows, expected, atol=1e-5)
    assert not torch.allclose(rows, expected.flip(0), atol=1e-2)


def test_what_zero_weights_would_hide_is_tried_with_others() -> None:
    arguments = {"model": ModelSpec("scatter_linear").to_json(), "granularity": "class"}
    info = DatasetInfo("noise", 3, (1, 8, 8))
    network = ModelSpec("scatter_linear").build(info.shape, 3)
    public = ClassGradients(arguments, network.state_dict(), info, "cpu").public()
    rows = public.rows(images(2, 1, 8, 8), torch.tensor([0, 0]))
    assert not torch.equal(rows[0, -3:], rows[1, -3:])  # of the bias: minus the label, plus what the network answers
    fill_zeros(network)
    assert network[-1].weight.any()
    before = network[-1].weight.clone()
    fill_zeros(network)
    assert torch.equal(network[-1].weight, before)  # and no others


def test_no_gradient_is_asked_of_layers_in_which_nothing_is_learnt() -> None:
    network = ModelSpec("scatter_linear").build((1, 8, 8), 3)
    seen: list[bool] = []
    network[0].register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    PerExampleGradients(network).rows(images(2, 1, 8, 8), torch.tensor([0, 1]))
    assert seen == [False]


def test_it_embeds_and_is_trained() -> None:
    info = DatasetInfo("two", 2, (1, 12, 12))
    spec = EmbeddingSpec(ModelSpec("scatter_linear"), (1, 2), 1, 0.5, 8, False)
    spec.validate(info)
    assert spec.cost(info).work > 2 * 10**6
    rows = Embedding(spec, 1, info, "cpu")(images(5, 1, 12, 12))
    assert rows.shape == (5, 16)
    assert torch.allclose(rows.norm(dim=1), torch.ones(5))
    stripes = torch.sin(2.4 * torch.arange(12.0)).expand(20, 1, 12, 12) + 0.3 * images(20, 1, 12, 12)
    labels = torch.arange(20) % 2
    stripes[labels == 1] = stripes[labels == 1].mT
    dataset = ImageDataset(stripes, labels, info)
    assert evaluate(dataset, dataset, model="scatter_linear", seeds=[0], epochs=20).mean == 1.0


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((13,), {}, "'scatter_linear' for rows of 13 features; allowed: images. Use 'mlp'"),
        ((1, 4, 9), {}, "images of 4 x 9; allowed: at least 5 x 5"),
        ((1, 28, 28), {"pool": 8}, "pool = 8; allowed: a whole number, 1 ... 7"),
        ((1, 28, 28), {"pool": True}, "pool = True"),
        ((1, 28, 28), {"groups": 4}, "groups = 4; allowed: a divisor of 81 channels"),
        ((1, 28, 28), {"groups": 0}, "groups = 0"),
        ((1, 5, 5), {"groups": 81}, "two values a group"),
        ((1, 28, 28), {"norm": 0}, "norm = 0; allowed: 0 < norm < 1000"),
        ((1, 28, 28), {"norm": True}, "norm = True"),
    ],
)
def test_what_it_cannot_be_is_refused(shape: tuple[int, ...], arguments: dict[str, object], message: str) -> None:
    for call in ("build", "size"):
        with pytest.raises(ModelError, match=message):
            getattr(ModelSpec("scatter_linear", arguments), call)(shape, 10)
