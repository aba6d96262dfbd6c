"""Checks of noise, coins and seeds: silent on the library, and on a real client."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from private_distdd.auditing import leaks
from private_distdd.auditing.canary import Setting
from private_distdd.data.datasets import ImageDataset
from private_distdd.models import ModelSpec


@pytest.mark.parametrize("setting", [Setting(), Setting(0.5, 0.3, 0.1, 9.0), Setting(4.0, 0.05)], ids=str)
def test_the_library_is_fresh(setting: Setting) -> None:
    for record in (leaks.noise_check(setting), leaks.coin_check(setting), leaks.seed_check(setting)):
        assert not record.findings


def test_global_generators_are_left_as_they_were(digits: ImageDataset) -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    leaks.seed_check(Setting())
    record = leaks.client_check(ImageDataset(digits.images[:20], digits.labels[:20], digits.info), ModelSpec("mlp"))
    assert not record.findings
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
