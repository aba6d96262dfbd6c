"""Checks of noise, coins and seeds: silent on the library, and on a real client."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch

from private_distdd.auditing.attacks.gradients import about_gradients
from private_distdd.auditing.checks import coins, leaks, noise, rows, seeds, words
from private_distdd.auditing.setting import Setting
from private_distdd.data.dataset import ImageDataset
from private_distdd.errors import DataError
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.privacy.randomness import InsecureRandomness, Randomness, Stream, SystemRandomness
from private_distdd.site import client as client_module
from private_distdd.site.client import Client
from private_distdd.wire.run import Run


@pytest.mark.parametrize("setting", [Setting(), Setting(0.5, 0.3, 0.1, 9.0), Setting(4.0, 0.05)], ids=str)
def test_the_library_is_fresh(setting: Setting) -> None:
    for check in (
        noise.noise_check,
        noise.message_check,
        coins.coin_check,
        coins.stream_check,
        words.threshold_check,
        rows.norm_check,
        seeds.seed_check,
        seeds.guess_check,
    ):
        record = check(setting)
        assert not record.findings


def test_global_generators_are_left_as_they_were(digits: ImageDataset) -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    seeds.seed_check(Setting())
    held = ImageDataset(digits.images[:20], digits.labels[:20], digits.info)
    record = leaks.client_check(held, about_gradients(ModelSpec("mlp"), digits.info))
    assert not record.findings
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


def torch_noise(seed: int) -> torch.Tensor:
    return 0.3 * torch.randn(4, 4096, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "noise"),
    [
        ("torch.Generator, torch.float32, seed 517", lambda: torch_noise(517)),
        ("torch.Generator, torch.float64, seed 0", lambda: double_noise(0)),
        ("numpy.random.default_rng, seed 1337", lambda: numpy_noise(np.random.default_rng(1337))),
        ("numpy.random.seed, seed 42", lambda: numpy_noise(np.random.RandomState(42))),
        ("random, seed 999", lambda: python_noise(999)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_noise_of_a_guessed_seed_is_reproduced(name: str, noise: Callable[[], torch.Tensor]) -> None:
    assert (0, name) in seeds.reproduced(noise())


def double_noise(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coins = torch.rand(64, generator=generator, dtype=torch.float64)  # drawn before the noise
    return torch.randn(2, 320, generator=generator, dtype=torch.float64) + 0 * coins.sum()


def numpy_noise(generator: np.random.Generator | np.random.RandomState) -> torch.Tensor:
    generator.standard_normal(100)  # something else drew first
    return torch.from_numpy(generator.standard_normal((4, 300)) * 7.0)


def python_noise(seed: int) -> torch.Tensor:
    generator = random.Random(seed)
    return torch.tensor([[generator.gauss(0, 1) for _ in range(300)]])


def test_a_seed_that_is_not_guessed_is_not_found_until_it_is_named() -> None:
    noise = torch_noise(98_765_432_101)
    assert seeds.reproduced(noise) == []
    assert seeds.reproduced(noise, [98_765_432_101]) == [(0, "torch.Generator, torch.float32, seed 98765432101")]


def empty_client(digits: ImageDataset, randomness: Randomness) -> torch.Tensor:
    """The message of a client that holds nothing: noise alone."""
    spec = ModelSpec("mlp", {"width": 8, "depth": 1})
    plan = PrivacyPlan(2.0, 0.5, 0.1, 3.0, 1, delta=1e-5)
    run = Run("leaks", digits.info, plan)
    client = Client("audited", ImageDataset(digits.images[:0], digits.labels[:0], digits.info), randomness=randomness)
    client.enroll(run)
    return client.answer(about_gradients(spec, digits.info).query(run, 0)).values


def test_a_clients_message_gives_a_guessed_seed_away_and_the_operating_systems_noise_does_not(
    digits: ImageDataset,
) -> None:
    assert seeds.reproduced(empty_client(digits, InsecureRandomness(7))) == [
        (0, "InsecureRandomness, stream 1, seed 7")
    ]
    assert seeds.reproduced(empty_client(digits, SystemRandomness())) == []


def test_client_check_sees_a_client_whose_noise_is_seeded_with_its_name(
    digits: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Seeded(SystemRandomness):
        def stream(self) -> Stream:
            digest = hashlib.sha256(b"audited").digest()
            number = int.from_bytes(digest[:4], "big") >> 1
            return Stream(hashlib.sha256(str(number).encode()).digest())

    monkeypatch.setattr(client_module, "SystemRandomness", Seeded)
    record = leaks.client_check(
        ImageDataset(digits.images[:20], digits.labels[:20], digits.info),
        about_gradients(ModelSpec("mlp", {"width": 8, "depth": 1}), digits.info),
    )
    assert any("a key hashed from it" in finding for finding in record.findings)


@pytest.mark.parametrize("shape", [(10, 63), (3, 64)])
def test_a_message_too_small_for_guesses_is_an_error(shape: tuple[int, int]) -> None:
    with pytest.raises(DataError, match="64 columns"):
        seeds.reproduced(torch.randn(*shape))
