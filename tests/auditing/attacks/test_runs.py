"""Runs of many rounds: bounds below the accountant's, and close to it where the form is assumed."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from private_distdd.auditing.attacks import attack
from private_distdd.auditing.attacks.attack import Runs, Source, log_ratio
from private_distdd.auditing.attacks.canary import clients
from private_distdd.auditing.attacks.gradients import about_gradients
from private_distdd.auditing.attacks.runs import canary_run, components, run_scores
from private_distdd.auditing.setting import Measure, Setting, library
from private_distdd.data.dataset import ImageDataset
from private_distdd.errors import ConfigurationError, DataError
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.accountants import bracket
from private_distdd.privacy.events import SampledGaussian
from private_distdd.privacy.randomness import InsecureRandomness, Randomness

SETTING = Setting(sample_rate=0.1, rounds=20)


def test_log_ratio_is_that_of_the_densities() -> None:
    x = np.random.default_rng(0).normal(size=(5, 3))
    q, sigma, shift = 0.3, 0.7, 1.2
    naive = np.log(
        ((1 - q) * stats.norm.pdf(x, 0, sigma) + q * stats.norm.pdf(x, shift, sigma)) / stats.norm.pdf(x, 0, sigma)
    )
    np.testing.assert_allclose(log_ratio(x, sigma, q, shift), naive.sum(axis=1))
    np.testing.assert_allclose(log_ratio(x, sigma, 1.0), ((2 * x - 1) / (2 * sigma**2)).sum(axis=1))


def test_rounds_are_independent_and_each_has_its_coin() -> None:
    scores = run_scores(Setting(0.01, 0.3, rounds=10), 500, InsecureRandomness(0), True)
    drawn = scores > 0.5
    assert stats.binomtest(int(drawn.sum()), drawn.size, 0.3).pvalue > 1e-4
    assert stats.binom.sf(int((drawn.sum(axis=1) == 3).sum()), 500, stats.binom.pmf(3, 10, 0.3)) > 1e-4


def test_a_run_is_bounded_from_below_and_not_rejected() -> None:
    record = canary_run(Setting(sample_rate=0.1, rounds=100), 20_000)
    low, high = dict(record.lower)[1e-5], dict(record.upper)[1e-5]
    assert not record.rejected
    assert 0.38 * high < low < high


@pytest.mark.slow  # a quarter of a minute
def test_a_million_runs_bound_epsilon_to_three_fifths() -> None:
    record = canary_run(Setting(sample_rate=0.1, rounds=100), 500_000)  # 8 seeds: .63 to .71
    low, high = dict(record.lower)[1e-5], dict(record.upper)[1e-5]
    assert not record.rejected
    assert 0.6 * high < low < high


def test_many_runs_are_scored_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []

    def counted(setting: Setting, runs: int, randomness: Randomness, inside: bool) -> Runs:
        held.append(runs)
        return run_scores(setting, runs, randomness, inside)

    monkeypatch.setattr(attack, "_CELLS", 10_000)
    record = canary_run(SETTING, 3210, source=Source(counted, "counted"))
    assert sum(held) == 6420
    assert max(held) * SETTING.rounds <= 10_000
    assert not record.rejected


def test_the_claims_likelihood_ratio_is_not_believed_where_the_mechanism_is_another() -> None:
    def leaky(sigma: float, q: float, max_grad_norm: float, divisor: float) -> Measure:
        return library(sigma / 3, q, max_grad_norm, divisor)

    truth = bracket([SampledGaussian(1 / 3, 0.3, 4)], 1e-5).upper
    for seed in range(5):
        record = canary_run(Setting(sample_rate=0.3, rounds=4, mechanism=leaky), 10_000, seed)
        assert dict(record.upper)[1e-5] < dict(record.lower)[1e-5] < truth


def test_a_wrong_claim_is_rejected() -> None:
    def leaky(sigma: float, q: float, max_grad_norm: float, divisor: float) -> Measure:
        return library(0.7 * sigma, q, max_grad_norm, divisor)

    assert canary_run(Setting(sample_rate=0.3, rounds=8, mechanism=leaky), 4000).rejected
    assert components(Setting(sample_rate=0.3, rounds=8, mechanism=leaky), 4000).rejected


@pytest.mark.parametrize("setting", [SETTING, Setting(2.0, max_grad_norm=3.0, divisor=5.0)], ids=["sampled", "whole"])
def test_components_are_tight(setting: Setting) -> None:
    record = components(setting, 50_000)
    low, high = dict(record.lower)[1e-5], dict(record.upper)[1e-5]
    assert not record.rejected
    assert 0.9 * high < low < high
    assert record.figures["sensitivity"] == pytest.approx(1, abs=1e-5)


def test_what_cannot_be_bounded_is_said() -> None:
    def blind(sigma: float, q: float, max_grad_norm: float, divisor: float) -> Measure:
        own = library(sigma, q, max_grad_norm, divisor)
        return lambda size, statistic, *others: own(0, lambda batch: iter(()), *others)

    with pytest.raises(DataError):
        components(Setting(mechanism=blind), 100)
    with pytest.raises(ConfigurationError):
        canary_run(SETTING, 10)


def test_nan_messages_are_said_to_be_bad() -> None:
    def broken(sigma: float, q: float, max_grad_norm: float, divisor: float) -> Measure:
        return lambda size, statistic, groups, dimension, randomness: torch.full((groups, dimension), torch.nan)

    with pytest.raises(DataError):
        canary_run(Setting(mechanism=broken, rounds=2), 100)


def test_runs_and_components_go_through_a_real_client(digits: ImageDataset) -> None:
    held = digits.labels != 3
    background = ImageDataset(digits.images[held][:4], digits.labels[held][:4], digits.info)
    question = about_gradients(ModelSpec("mlp", {"width": 4, "depth": 1}), digits.info)
    source = clients(background, (digits.images[~held][0], 3), question)
    setting = Setting(sample_rate=0.5, rounds=2, divisor=2.0)

    record = canary_run(setting, 80, source=source)
    assert record.audit == "canary_run_client"
    assert "Client.answer" in record.assumptions
    assert not record.rejected
    record = components(setting, 100, source=source)
    assert record.audit == "components_client"
    assert not record.rejected
    assert record.figures["sensitivity"] == pytest.approx(1, abs=1e-4)
    assert 1.0 < record.figures["sigma upper"] < 1.4
    assert 0.3 < record.figures["q lower"] < 0.5
    assert components(setting, 60, source=quieter(source)).rejected


def quieter(source: Source) -> Source:
    """Clients with half of the claimed noise."""

    def scores(setting: Setting, *others: Any) -> Runs:
        sigma = setting.noise_multiplier / 2
        return source.scores(dataclasses.replace(setting, noise_multiplier=sigma), *others)

    return Source(scores, "quieter")
