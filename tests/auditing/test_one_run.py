"""The audit in one run: its p-values hold, and it sees what it should."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from private_distdd.auditing.canary import Release, Setting, library
from private_distdd.auditing.one_run import epsilon_lower, one_run, p_value
from private_distdd.errors import ConfigurationError


def test_without_delta_the_p_value_is_the_binomial_tail() -> None:
    assert p_value(80, 100, 1000, 1.0, 0.0) == pytest.approx(stats.binom.sf(79, 100, math.e / (1 + math.e)))
    assert p_value(0, 100, 1000, 1.0, 0.0) == 1.0


def test_p_values_grow_with_epsilon_and_delta() -> None:
    values = [p_value(95, 100, 1000, epsilon, 1e-5) for epsilon in (0.5, 1.0, 2.0, 3.0)]
    assert values == sorted(values)
    assert p_value(95, 100, 1000, 2.0, 1e-3) > p_value(95, 100, 1000, 2.0, 1e-6)


def test_randomised_response_is_covered() -> None:
    # Every guess is right with probability e / (1 + e): epsilon = 1 exactly.
    rng, alpha, runs = np.random.default_rng(0), 0.2, 300
    right = rng.binomial(200, math.e / (1 + math.e), runs)
    bounds = [epsilon_lower(int(v), 200, 200, 0.0, alpha) for v in right]
    assert sum(bound > 1 for bound in bounds) <= stats.binom.ppf(1 - 1e-4, runs, alpha)
    assert np.median(bounds) > 0.5


@pytest.mark.parametrize("setting", [Setting(), Setting(sample_rate=0.3, rounds=20)], ids=["one", "twenty"])
def test_the_library_is_bounded_and_not_rejected(setting: Setting) -> None:
    record = one_run(setting)
    assert not record.rejected
    assert 0.3 < dict(record.lower)[1e-5] < dict(record.upper)[1e-5]


def test_missing_noise_is_rejected() -> None:
    def quiet(sigma: float, q: float, max_norm: float, divisor: float) -> Release:
        return library(sigma / 20, q, max_norm, divisor)

    assert one_run(Setting(mechanism=quiet, noise_multiplier=2.0), guesses=400).rejected


def test_counts_must_make_sense() -> None:
    for right, guesses, canaries in ((5, 4, 10), (1, 11, 10), (-1, 4, 10), (0, 0, 0)):
        with pytest.raises(ConfigurationError):
            p_value(right, guesses, canaries, 1.0, 0.0)
    with pytest.raises(ConfigurationError):
        one_run(Setting(), canaries=100, guesses=7)
