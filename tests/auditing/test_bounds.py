"""Bounds that hold as often as they say, on distributions whose epsilon is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from private_distdd.auditing import bounds, thresholds
from private_distdd.auditing.bounds import Errors
from private_distdd.errors import ConfigurationError, DataError
from private_distdd.privacy.accountants import epsilon
from private_distdd.privacy.events import NotPrivate, SampledGaussian
from private_distdd.privacy.tradeoff import TradeoffCurve


def test_clopper_pearson_is_the_smallest_rate_that_the_binomial_refutes() -> None:
    for errors, trials in ((0, 10), (3, 10), (9, 10), (50, 1000)):
        bound = bounds.clopper_pearson_upper(errors, trials, 0.05)
        assert stats.binom.cdf(errors, trials, bound) == pytest.approx(0.05, rel=1e-9)
    assert bounds.clopper_pearson_upper(10, 10, 0.05) == 1.0


@pytest.mark.parametrize(
    ("errors", "trials", "alpha"), [(-1, 5, 0.1), (6, 5, 0.1), (0, 0, 0.1), (1, 5, 0.0), (1, 5, 1.0)]
)
def test_clopper_pearson_refuses_what_is_no_count(errors: int, trials: int, alpha: float) -> None:
    with pytest.raises(ConfigurationError):
        bounds.clopper_pearson_upper(errors, trials, alpha)


def bound_of(inside: np.ndarray, outside: np.ndarray, threshold: float, alpha: float) -> float:
    return bounds.errors_at(inside, outside, threshold, alpha).epsilon(0.0)


@pytest.mark.parametrize("name", ["gaussian", "laplace", "randomised response"])
def test_the_bound_covers_the_true_epsilon(name: str) -> None:
    # At alpha = .2 the bound may pass the truth in 20 % of runs; 400 runs with more than 114 have p < 1e-4.
    rng, runs, trials, alpha = np.random.default_rng(1), 400, 400, 0.2
    failures, seen = 0, []
    for _ in range(runs):
        if name == "laplace":  # epsilon = 1 exactly, reached at every threshold above 1
            inside, outside, truth, threshold = 1 + rng.laplace(size=trials), rng.laplace(size=trials), 1.0, 1.0
        elif name == "gaussian":  # the ratio at this threshold, which the bound estimates
            inside, outside, threshold = 1 + rng.normal(size=trials), rng.normal(size=trials), 1.5
            truth = math.log(stats.norm.sf(0.5) / stats.norm.sf(1.5))
        else:  # says the truth with probability 3/4: epsilon = ln 3
            inside, outside, threshold, truth = rng.random(trials) < 0.75, rng.random(trials) < 0.25, 0.5, math.log(3)
        seen.append(bound_of(np.asarray(inside, float), np.asarray(outside, float), threshold, alpha))
        failures += seen[-1] > truth
    assert failures <= stats.binom.ppf(1 - 1e-4, runs, alpha)
    assert np.median(seen) > 0.5 * truth  # and it is not idle


def test_swapping_the_sides_of_negated_scores_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(1, 1, 500), rng.normal(0, 1, 500)
    one, other = bounds.errors_at(inside, outside, 0.3, 0.05), bounds.errors_at(-outside, -inside, -0.3, 0.05)
    assert (one.false_positive, one.false_negative) == (other.false_negative, other.false_positive)
    assert one.epsilon(1e-5) == other.epsilon(1e-5)
    curve = TradeoffCurve([SampledGaussian(1.0, 0.2, 3)])
    assert curve.rejects(0.3, 0.001) == curve.rejects(0.001, 0.3)


def test_the_bound_is_zero_where_nothing_was_shown() -> None:
    assert Errors(1.0, 1.0).epsilon(1e-5) == 0.0
    assert Errors(0.5, 0.5).epsilon(0.0) == 0.0
    assert Errors(0.1, 0.5).epsilon(0.0) == pytest.approx(math.log(5))


def test_the_gaussian_curve_is_the_closed_form() -> None:
    curve = TradeoffCurve([SampledGaussian(2.0, 1.0, 4)])
    a = np.array([0.01, 0.3, 0.9])
    np.testing.assert_allclose(curve(a), stats.norm.cdf(stats.norm.isf(a) - 1.0))


def test_the_sampled_curve_lies_below_the_exact_one_and_close_to_it() -> None:
    # One release, removal: LR is monotone in x, so FNR(x) at FPR(x) by thresholds is the exact trade-off.
    q, sigma = 0.3, 1.0
    x = np.linspace(-2, 4, 50)
    fpr, fnr = stats.norm.sf(x), (1 - q) * stats.norm.cdf(x) + q * stats.norm.cdf(x - 1)
    curve = TradeoffCurve([SampledGaussian(sigma, q)])
    found = curve(fpr)
    assert (found <= fnr + 1e-9).all()
    # f is the worse of both directions and convex, so only closeness where removal is the worse one can be asked.
    assert np.max((fnr - found)[x > 1]) < 0.01


def test_a_claim_of_nothing_cannot_be_tested() -> None:
    for events in ([], [NotPrivate()], [SampledGaussian(1.0, 1.0), NotPrivate()]):
        with pytest.raises(ConfigurationError):
            TradeoffCurve(events)


def test_upper_is_the_accountants() -> None:
    assert TradeoffCurve([SampledGaussian(1.0, 1.0)]).epsilon(1e-5) == epsilon([SampledGaussian(1.0, 1.0)], 1e-5, "gdp")


@pytest.mark.parametrize("trials", [20, 200, 20_000])  # the last by the normal approximation
def test_mu_lower_covers(trials: int) -> None:
    rng, runs, alpha, mu = np.random.default_rng(2), 300, 0.2, 0.8
    found = [
        bounds.gaussian_mu_lower(rng.normal(mu * 3, 3, trials), rng.normal(0, 3, trials), alpha) for _ in range(runs)
    ]
    failures = sum(value > mu for value in found)
    assert stats.binom.ppf(1e-4, runs, alpha) <= failures <= stats.binom.ppf(1 - 1e-4, runs, alpha)


def test_mu_lower_is_zero_where_nothing_moves_and_infinite_without_noise() -> None:
    rng = np.random.default_rng(0)
    assert bounds.gaussian_mu_lower(rng.normal(size=100), rng.normal(3, 1, 100), 0.05) == 0.0
    assert bounds.gaussian_mu_lower(np.ones(50), np.zeros(50), 0.05) == math.inf
    assert bounds.mu_epsilon(math.inf, 1e-5) == math.inf
    assert bounds.mu_epsilon(0.0, 1e-5) == 0.0


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        (np.full(100, np.nan), np.zeros(100)),
        (np.ones(100), np.append(np.zeros(99), np.inf)),
        (np.zeros(100), np.zeros(100)),
        (np.ones(5), np.zeros(100)),
        (np.ones((50, 2)), np.zeros(100)),
    ],
    ids=["nan", "inf", "constant", "few", "matrix"],
)
def test_bad_scores_are_said_to_be_bad(inside: np.ndarray, outside: np.ndarray) -> None:
    with pytest.raises(DataError):
        bounds.check_scores(inside, outside)


def test_best_thresholds_agree_with_a_naive_search() -> None:
    rng = np.random.default_rng(3)
    inside, outside = rng.normal(2, 1, 300), rng.normal(0, 1, 300)
    curve = TradeoffCurve([SampledGaussian(1.0, 1.0)])
    (threshold, bound), (gate, margin) = thresholds.best_thresholds(inside, outside, curve, 1e-5, 0.05, 1e-4)
    every = thresholds.thresholds(inside, outside)
    naive = [bounds.errors_at(inside, outside, float(t), 0.05).epsilon(1e-5) for t in every]
    assert bound == pytest.approx(max(naive))
    assert bounds.errors_at(inside, outside, threshold, 0.05).epsilon(1e-5) == pytest.approx(bound)
    errors = bounds.errors_at(inside, outside, gate, 1e-4)
    assert curve.rejects(errors.false_positive, errors.false_negative) == (margin > 0)
    assert margin > 0  # mu = 2 against a claim of 1


def test_the_expected_best_threshold_is_where_theory_has_it() -> None:
    # N(1, 1) against N(0, 1), 1e5 trials each: 3.59 by integration over the binomials, at a bound of 2.85.
    rng, found = np.random.default_rng(4), []
    for _ in range(10):
        inside, outside = rng.normal(1, 1, 20_000), rng.normal(0, 1, 20_000)
        scores = inside - 0.5, outside - 0.5
        threshold, bound = thresholds.best_bound(*scores, (100_000, 100_000), 1e-5, 0.05, ratios=True)
        found.append(threshold + 0.5)
        assert bound == pytest.approx(2.85, abs=0.3)
    assert np.mean(found) == pytest.approx(3.59, abs=0.15)
    assert np.std(found) < 0.25


def test_a_model_that_the_scores_refute_is_not_believed() -> None:
    # Outside, half of the runs score as high as those inside: a ratio that promises none of them is wrong.
    rng = np.random.default_rng(5)
    inside, outside = rng.normal(20, 1, 2000), rng.normal(20, 1, 2000) * (rng.random(2000) < 0.5)
    _, bound = thresholds.best_bound(inside, outside, (2000, 2000), 1e-5, 0.05, ratios=True)
    assert bound < 1.0
    assert thresholds.best_bound(inside, np.zeros(2000), (2000, 2000), 1e-5, 0.05, ratios=True)[1] > 5.0
    assert thresholds.best_bound(inside, outside, (2000, 2000), 1e-5, 0.05)[1] < 1.0


def test_levels_are_shared_out_as_asked() -> None:
    inside, outside = np.linspace(0, 3, 500), np.linspace(-2, 1, 500)
    errors = bounds.errors_at(inside, outside, 0.5, 0.05, share=0.9)
    assert errors.false_positive == bounds.clopper_pearson_upper(int((outside > 0.5).sum()), 500, 0.045)
    assert errors.false_negative == pytest.approx(
        bounds.clopper_pearson_upper(int((inside <= 0.5).sum()), 500, 0.005), rel=1e-9
    )
