"""The audit in one run: its p-values hold, and it sees what it should."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import special, stats

from private_distdd.auditing.attacks.guesses import epsilon_lower, p_value, refuted
from private_distdd.auditing.attacks.one_run import one_run, one_run_tradeoff
from private_distdd.auditing.setting import Measure, Setting, library
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
    def quiet(sigma: float, q: float, max_grad_norm: float, divisor: float) -> Measure:
        return library(sigma / 20, q, max_grad_norm, divisor)

    assert one_run(Setting(mechanism=quiet, noise_multiplier=2.0), guesses=400).rejected


def gaussian(mu: float) -> Callable[[float], float]:
    return lambda a: float(special.ndtr(-special.ndtri(a) - mu))


def approximate(epsilon: float, delta: float) -> Callable[[float], float]:
    return lambda a: max(0.0, 1 - delta - math.exp(epsilon) * a, math.exp(-epsilon) * (1 - delta - a))


def fewest_refuted(guesses: int, canaries: int, tradeoff: Callable[[float], float], alpha: float) -> int:
    return next((c for c in range(guesses + 1) if refuted(c, guesses, canaries, tradeoff, alpha)), guesses + 1)


@pytest.mark.parametrize("guesses", [1, 10, 200])
def test_randomised_response_is_refuted_at_the_level_and_hardly_below(guesses: int) -> None:
    # Each guess is right with probability e / (1 + e), independently: within epsilon = 1, and its worst case but for
    # what the recursion gives away.  The exact tail at the fewest refuted is at most alpha, and one less is above it.
    for alpha in (0.2, 0.01):
        fewest = fewest_refuted(guesses, guesses, approximate(1.0, 0.0), alpha)
        tail = stats.binom(guesses, math.e / (1 + math.e)).sf
        assert fewest > guesses or tail(fewest - 1) <= alpha
        assert tail(fewest - 4) > alpha


def test_guesses_that_are_all_right_at_once_are_covered() -> None:
    # One coin decides whether all ten guesses are right or all wrong, at the odds that epsilon = 2 allows: far from
    # independent guesses.  All right has probability .88, which no level below may refute.
    rate = math.exp(2) / (1 + math.exp(2))
    assert not refuted(10, 10, 10, approximate(2.0, 0.0), 0.99 * rate / 10)
    fewest = fewest_refuted(10, 10, approximate(0.5, 0.0), 0.01)
    assert stats.binom.sf(fewest - 1, 10, math.exp(0.5) / (1 + math.exp(0.5))) <= 0.01


def guessed(rng: np.random.Generator, mu: float, canaries: int, guesses: int) -> int:
    held = rng.random(canaries) < 0.5
    order = (mu * held + rng.normal(size=canaries)).argsort()
    half = guesses // 2
    return int(held[order[-half:]].sum() + (~held[order[:half]]).sum())


def test_a_gaussian_mechanism_is_refuted_as_rarely_as_said_and_a_claim_of_half_of_it_is() -> None:
    rng, runs, alpha = np.random.default_rng(0), 400, 0.2
    right = [guessed(rng, 1.0, 500, 50) for _ in range(runs)]
    fewest = fewest_refuted(50, 500, gaussian(1.0), alpha)
    assert sum(c >= fewest for c in right) <= stats.binom.ppf(1 - 1e-4, runs, alpha)
    right = [guessed(rng, 1.0, 5000, 200) for _ in range(100)]
    fewest = fewest_refuted(200, 5000, gaussian(0.5), 0.05)
    assert sum(c >= fewest for c in right) > 95


def test_the_curve_tells_more_than_its_epsilon() -> None:
    curve, plain = one_run_tradeoff(Setting()), one_run(Setting())
    assert curve.statistic == plain.statistic
    assert not curve.rejected
    low, high = dict(curve.lower)[1e-5], dict(curve.upper)[1e-5]
    assert 1.3 * dict(plain.lower)[1e-5] < low < high


def test_a_quarter_of_the_noise_is_rejected_where_the_claims_epsilon_alone_is_not() -> None:
    def louder(sigma: float, q: float, max_grad_norm: float, divisor: float) -> Measure:
        return library(sigma / 4, q, max_grad_norm, divisor)

    assert one_run_tradeoff(Setting(mechanism=louder), guesses=300).rejected
    assert not one_run(Setting(mechanism=louder), guesses=300).rejected


def test_counts_must_make_sense() -> None:
    for right, guesses, canaries in ((5, 4, 10), (1, 11, 10), (-1, 4, 10), (0, 0, 0)):
        with pytest.raises(ConfigurationError):
            p_value(right, guesses, canaries, 1.0, 0.0)
        with pytest.raises(ConfigurationError):
            refuted(right, guesses, canaries, gaussian(1.0), 0.05)
    with pytest.raises(ConfigurationError):
        one_run(Setting(), canaries=100, guesses=7)
