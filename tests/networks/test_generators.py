"""Generators: random, out of public images, and the user's own from safetensors; and S as a function of latents."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError, ModelError
from private_distdd.networks.generators import Generator, convolutional, public_generator
from private_distdd.synthetic.latents import Latents

INFO = DatasetInfo("tiny", 3, (1, 8, 8), (0.2,), (0.3,))


def own() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(5, 64), nn.Sigmoid(), nn.Unflatten(1, (1, 8, 8)))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28), (2, 5, 9)])
def test_a_random_one_follows_from_its_seed_and_makes_pixels(shape: tuple[int, int, int]) -> None:
    info = DatasetInfo("any", 3, shape)
    state = torch.get_rng_state()
    first, again, other = (convolutional(info, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.weights == again.weights != other.weights
    assert first.learned
    assert first.seen == "nothing"
    first.require_images(info)
    pixels = first.network(torch.randn(4, *first.latent_shape)).detach()
    assert pixels.shape == (4, *shape)
    assert 0 <= float(pixels.min()) < float(pixels.max()) <= 1


def test_one_out_of_public_images_makes_such_images(digits: ImageDataset) -> None:
    public = ImageDataset(digits.images[:600], digits.labels[:600], digits.info)
    trained = public_generator(public, epochs=4)
    assert (trained.seen, trained.learned, trained.latent_shape) == ("digits", False, (4, 2, 2))
    assert trained.weights == public_generator(public, epochs=4).weights != public_generator(public, epochs=1).weights

    def nearest(generator: Generator) -> float:
        """Best distance to a real image, by steps on the latents."""
        target = digits.info.denormalise(digits.images[700:720])
        latents = torch.randn(20, *generator.latent_shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
        optimizer = torch.optim.Adam([latents], lr=0.1)
        for _ in range(60):
            optimizer.zero_grad()
            loss = (generator.network(latents) - target).square().mean()
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    random = convolutional(digits.info, 0, latent_channels=4, learned=False)
    assert nearest(trained) < 0.7 * nearest(random)


def test_the_user_s_own_comes_from_safetensors_to_the_bit(tmp_path: Path) -> None:
    made = Generator(own(), (5,), "own", "cartoons")
    made.save(tmp_path / "own.safetensors")
    fresh = nn.Sequential(nn.Linear(5, 64), nn.Sigmoid(), nn.Unflatten(1, (1, 8, 8)))
    loaded = Generator.loaded(fresh, tmp_path / "own.safetensors", latent_shape=(5,), name="own", seen="cartoons")
    assert loaded.record() == made.record()
    latents = torch.randn(2, 5)
    assert torch.equal(loaded.network(latents), made.network(latents))
    loaded.require_images(INFO)
    with torch.no_grad():
        fresh[0].bias[0] += 1
    assert loaded.weights != made.weights


def test_files_that_are_not_its_weights_are_refused(tmp_path: Path) -> None:
    torch.save(own().state_dict(), tmp_path / "pickled.pt")
    save_file({"0.weight": torch.zeros(64, 5)}, tmp_path / "part.safetensors")
    for name in ("pickled.pt", "part.safetensors", "absent.safetensors"):
        with pytest.raises(ModelError):
            Generator.loaded(own(), tmp_path / name, latent_shape=(5,), name="own", seen="cartoons")


@pytest.mark.parametrize(
    "wrong",
    [
        {"network": lambda latents: latents},
        {"latent_shape": ()},
        {"latent_shape": (0,)},
        {"latent_shape": 5},
        {"name": ""},
        {"seen": ""},
        {"seen": None},
        {"learned": 1},
    ],
    ids=str,
)
def test_other_arguments_are_refused(wrong: dict[str, Any]) -> None:
    usual: dict[str, Any] = {"network": own(), "latent_shape": (5,), "name": "own", "seen": "cartoons"}
    with pytest.raises(ConfigurationError):
        Generator(**(usual | wrong))


def test_one_that_makes_other_images_is_refused() -> None:
    table = DatasetInfo("table", 3, (5,))
    for latents, info, error in (
        ((5,), DatasetInfo("any", 3, (1, 9, 9)), ModelError),
        ((6,), INFO, ModelError),
        ((5,), table, ConfigurationError),
    ):
        with pytest.raises(error):
            Generator(own(), latents, "own", "cartoons").require_images(info)
    with pytest.raises(ConfigurationError, match="convolutional"):
        convolutional(table, 0)


def test_latents_start_from_noise_and_a_given_generator_is_never_changed() -> None:
    for learned in (False, True):
        generator = Generator(own(), (5,), "own", "cartoons", learned)
        before = generator.weights
        latents = Latents.drawn(generator, INFO, 40, np.random.default_rng(0), "cpu")
        assert abs(float(latents.latents[0].detach().mean())) < 0.3
        assert 0.8 < float(latents.latents[0].detach().std()) < 1.2
        low, high = (float(bound) for bound in INFO.bounds or ())
        examples = latents.examples()
        assert low <= float(examples.detach().min()) < float(examples.detach().max()) <= high
        examples.sum().backward()
        assert latents.latents[0].grad is not None
        assert bool(latents.weights) is learned
        for weights in latents.weights:
            assert weights.grad is not None
            weights.data.add_(1.0)
        assert generator.weights == before
    pixels = Latents.drawn(None, INFO, 2, np.random.default_rng(0), "cpu")
    assert pixels.examples().shape == (2, *INFO.shape)
    assert not pixels.weights


class Two(nn.Module):
    """Two layers, of which the second sees the first's result and the latents."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.unused = nn.Linear(5, 3), nn.Linear(8, 64), nn.Linear(5, 5)

    def forward(self, latents: Tensor) -> Tensor:
        both = torch.cat([self.first(latents), latents], dim=1)
        return torch.sigmoid(self.last(both)).unflatten(1, (1, 8, 8))


def test_a_layer_s_result_is_changed_beside_the_latents() -> None:
    """At first they make what the network makes; then each of the two changes the images by itself."""
    generator = Generator(Two(), (5,), "two", "nothing", layer="first")
    generator.require_images(INFO)
    plain = Latents.drawn(dataclasses.replace(generator, layer=None), INFO, 4, np.random.default_rng(0), "cpu")
    latents = Latents.drawn(generator, INFO, 4, np.random.default_rng(0), "cpu")
    assert [tuple(own.shape) for own in latents.latents] == [(4, 5), (4, 3)]
    assert torch.allclose(latents.examples(), plain.examples())
    latents.examples().square().sum().backward()
    for own in latents.latents:
        assert own.grad is not None
        assert bool(own.grad.any(dim=1).all())
    with torch.no_grad():
        latents.latents[1] += 1.0
        assert float((latents.examples() - plain.examples()).abs().max()) > 0.01
        latents.latents[1] -= 1.0
        latents.latents[0].zero_()
        rest = generator.network.last(torch.cat([latents.latents[1], torch.zeros(4, 5)], dim=1)).sigmoid()
        low, high = INFO.bounds or ()
        assert torch.allclose(latents.examples().flatten(1), (low + (high - low) * rest[:, None]).flatten(1), atol=1e-6)
    assert not generator.network.first._forward_hooks
    assert generator.record()["layer"] == "first"


def test_a_layer_that_cannot_be_changed_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'first', 'last', 'unused'"):
        Generator(Two(), (5,), "two", "nothing", layer="second")
    with pytest.raises(ModelError, match="0 results"):
        Generator(Two(), (5,), "two", "nothing", layer="unused").require_images(INFO)
