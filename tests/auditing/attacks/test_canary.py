"""Canaries: the library's own messages pass, broken ones are rejected, and a real client scores as the mechanism."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats

from private_distdd.auditing.attacks import canary
from private_distdd.auditing.attacks.gradients import about_gradients
from private_distdd.auditing.checks import leaks
from private_distdd.auditing.checks import replay as checks
from private_distdd.auditing.probe import Probe
from private_distdd.auditing.report.records import AuditRecord, table
from private_distdd.auditing.setting import Measure, Setting, library
from private_distdd.data.dataset import ImageDataset
from private_distdd.errors import ConfigurationError, DataError
from private_distdd.networks.embedding import EmbeddingSpec
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.randomness import InsecureRandomness

CANARY = 3
SPEC = ModelSpec("mlp", {"width": 8, "depth": 1})


def half_the_noise(sigma: float, q: float, max_grad_norm: float, divisor: float) -> Measure:
    return library(sigma / 2, q, max_grad_norm, divisor)


@pytest.fixture
def background(digits: ImageDataset) -> ImageDataset:
    others = torch.nonzero(digits.labels != CANARY)[:6, 0]
    return ImageDataset(digits.images[others], digits.labels[others], digits.info)


@pytest.fixture
def target(digits: ImageDataset) -> tuple[torch.Tensor, int]:
    return digits.images[digits.labels == CANARY][0], CANARY


def test_scores_are_those_of_the_theorem() -> None:
    setting = Setting(noise_multiplier=2.0, max_grad_norm=3.0, divisor=7.0)
    inside = setting.runs(4000, InsecureRandomness(0), True)[:, 0]
    outside = setting.runs(4000, InsecureRandomness(1), False)[:, 0]
    assert stats.kstest(inside, stats.norm(1, 2).cdf).pvalue > 1e-4
    assert stats.kstest(outside, stats.norm(0, 2).cdf).pvalue > 1e-4


def test_every_canary_has_a_coin_of_its_own() -> None:
    scores = Setting(noise_multiplier=0.01, sample_rate=0.3).runs(2000, InsecureRandomness(0), True)[:, 0]
    drawn = int((scores > 0.5).sum())
    assert stats.binomtest(drawn, 2000, 0.3).pvalue > 1e-4


def test_one_release_is_bounded_within_two_fifths() -> None:
    for seed in range(5):  # 25 seeds: .62 to .76
        record = canary.canary_single(Setting(), 100_000, seed)
        low, high = dict(record.lower)[1e-5], dict(record.upper)[1e-5]
        assert not record.rejected
        assert 0.6 * high < low < high


def test_the_gaussian_audit_is_tight() -> None:
    record = canary.canary_gaussian(Setting(), 10_000, seed=0)
    low, high = dict(record.lower)[1e-5], dict(record.upper)[1e-5]
    assert not record.rejected
    assert 0.95 * high < low < high


@pytest.mark.parametrize("audit", [canary.canary_single, canary.canary_gaussian])
def test_half_the_noise_is_rejected(audit: Callable[..., AuditRecord]) -> None:
    assert audit(Setting(mechanism=half_the_noise), 1000).rejected


def test_noise_of_the_wrong_law_is_rejected() -> None:
    def heavy(sigma: float, q: float, max_grad_norm: float, divisor: float) -> Measure:
        own = library(sigma, q, max_grad_norm, divisor)
        return lambda *arguments: own(*arguments) * torch.rand(1).item() + own(*arguments).pow(3)

    torch.manual_seed(0)
    record = canary.canary_gaussian(Setting(mechanism=heavy), 2000)
    assert record.rejected
    assert record.findings
    assert all(low == 0 for _, low in record.lower)


def test_alarms_on_the_right_mechanism_are_rare() -> None:
    # Each fires with probability at most 1e-4: two or more in 50 runs have probability 1e-5.
    settings = (Setting(), Setting(sample_rate=0.3, noise_multiplier=0.8))
    assert sum(canary.canary_single(settings[i % 2], 300, seed=i).rejected for i in range(50)) <= 1


def test_audits_ask_for_what_they_can_use() -> None:
    with pytest.raises(ConfigurationError):
        canary.canary_gaussian(Setting(sample_rate=0.5))
    with pytest.raises(ConfigurationError):
        canary.canary_single(Setting(rounds=2))
    with pytest.raises(ConfigurationError):
        canary.canary_single(Setting(), 3)
    with pytest.raises(ConfigurationError):
        Setting(noise_multiplier=math.nan)


def test_end_to_end_the_client_sends_what_the_mechanism_makes(
    background: ImageDataset, target: tuple[torch.Tensor, int]
) -> None:
    setting = Setting(noise_multiplier=0.5, sample_rate=0.5, divisor=4.0)
    scores = canary.client_scores(
        background, target, about_gradients(SPEC, background.info), setting, 200, InsecureRandomness(0), inside=True
    )
    assert scores.shape == (200, 1)
    drawn = (1 - 0.5) * stats.norm(0, 0.5).cdf(0.5) + 0.5 * stats.norm(1, 0.5).cdf(0.5)
    assert stats.binomtest(int((scores <= 0.5).sum()), 200, drawn).pvalue > 1e-4
    outside = canary.client_scores(
        background, target, about_gradients(SPEC, background.info), setting, 100, InsecureRandomness(1), inside=False
    )
    assert stats.kstest(outside[:, 0], stats.norm(0, 0.5).cdf).pvalue > 1e-4


def test_end_to_end_record(background: ImageDataset, target: tuple[torch.Tensor, int]) -> None:
    record = canary.canary_client(background, target, about_gradients(SPEC, background.info), Setting(), 200)
    assert not record.rejected
    assert dict(record.lower)[1e-5] < dict(record.upper)[1e-5]
    json.dumps(record.to_json(), allow_nan=False)
    assert "canary_client" in table([record])


def test_a_canary_that_its_class_hides_is_refused(background: ImageDataset) -> None:
    with pytest.raises(DataError, match="alone"):
        canary.client_scores(
            background,
            (background.images[0], int(background.labels[0])),
            about_gradients(SPEC, background.info),
            Setting(),
            30,
            InsecureRandomness(0),
            inside=True,
        )


def test_scores_repeat_with_their_seed() -> None:
    one, other = (Setting().runs(50, InsecureRandomness(5), True) for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_a_message_of_embeddings_is_attacked_like_one_of_gradients(digits: ImageDataset) -> None:
    others = digits.labels != 3
    background = ImageDataset(digits.images[others][:4], digits.labels[others][:4], digits.info)
    target = digits.images[~others][0], 3
    question = Probe("class_embeddings", EmbeddingSpec(SPEC, (0, 1), 1, 0.5, 32, True).to_json(), {})
    assert not leaks.client_check(background, question).findings
    replayed = checks.replay_client(background, target, question)
    assert not replayed.findings
    assert replayed.figures["largest move in C / b"] == pytest.approx(1, abs=1e-3)
    scores = canary.client_scores(background, target, question, Setting(), 400, InsecureRandomness(0), inside=True)
    assert scores.mean() == pytest.approx(1, abs=0.2)
    assert stats.kstest(scores[:, 0], "norm", args=(1, 1)).pvalue > 1e-3
    assert stats.kstest(scores[:, 0], "norm", args=(1, 0.7)).pvalue < 1e-3
    assert not canary.canary_client(background, target, question, Setting(), 200).rejected
