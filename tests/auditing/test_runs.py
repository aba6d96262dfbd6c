"""Runs of many rounds: bounds below the accountant's, and close to it where the form is assumed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from private_distdd.auditing.canary import Release, Setting, library
from private_distdd.auditing.runs import canary_run, components, log_ratio, run_scores
from private_distdd.errors import ConfigurationError, DataError
from private_distdd.privacy.randomness import InsecureRandomness

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
    assert 0.35 * high < low < high


def test_a_wrong_claim_is_rejected() -> None:
    def leaky(sigma: float, q: float, max_norm: float, divisor: float) -> Release:
        return library(0.7 * sigma, q, max_norm, divisor)

    assert canary_run(Setting(sample_rate=0.3, rounds=8, mechanism=leaky), 4000).rejected
    assert components(Setting(sample_rate=0.3, rounds=8, mechanism=leaky), 4000).rejected


@pytest.mark.parametrize("setting", [SETTING, Setting(2.0, max_norm=3.0, divisor=5.0)], ids=["sampled", "whole"])
def test_components_are_tight(setting: Setting) -> None:
    record = components(setting, 50_000)
    low, high = dict(record.lower)[1e-5], dict(record.upper)[1e-5]
    assert not record.rejected
    assert 0.9 * high < low < high
    assert record.figures["sensitivity"] == pytest.approx(1, abs=1e-5)


def test_what_cannot_be_bounded_is_said() -> None:
    def blind(sigma: float, q: float, max_norm: float, divisor: float) -> Release:
        own = library(sigma, q, max_norm, divisor)
        return lambda size, statistic, *others: own(0, lambda batch: iter(()), *others)

    with pytest.raises(DataError):
        components(Setting(mechanism=blind), 100)
    with pytest.raises(ConfigurationError):
        canary_run(SETTING, 10)


def test_nan_messages_are_said_to_be_bad() -> None:
    def broken(sigma: float, q: float, max_norm: float, divisor: float) -> Release:
        return lambda size, statistic, groups, dimension, randomness: torch.full((groups, dimension), torch.nan)

    with pytest.raises(DataError):
        canary_run(Setting(mechanism=broken, rounds=2), 100)
