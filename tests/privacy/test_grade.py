"""What a claim is worth, in words: the grade's limits, and figures that bound every attacker."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from scipy import stats

from private_distdd.privacy.accountants import best_epsilon
from private_distdd.privacy.events import SampledGaussian
from private_distdd.privacy.grade import grade_of, in_words
from private_distdd.privacy.tradeoff import TradeoffCurve


@pytest.mark.parametrize(
    ("epsilon", "delta", "grade"),
    [
        (0.0, 1e-5, "strong"),
        (1.0, 1e-3, "strong"),
        (1.001, 1e-5, "reasonable"),
        (3.0, 1e-5, "reasonable"),
        (3.001, 1e-5, "limited"),
        (10.0, 1e-5, "limited"),
        (10.001, 1e-5, "hardly any"),
        (5000.0, 1e-5, "hardly any"),
        (math.inf, 1e-5, "hardly any"),
        (0.1, 0.0011, "hardly any"),
        (0.1, 0.5, "hardly any"),
    ],
)
def test_the_grades(epsilon: float, delta: float, grade: str) -> None:
    assert grade_of(epsilon, delta) == grade


def test_the_words_are_those_of_the_likelihood_ratio_test() -> None:
    """Of one Gaussian release the best test is known: a threshold."""
    event = SampledGaussian(2.0, 1.0)
    epsilon = best_epsilon([event], 1e-5)
    thresholds = np.linspace(-10, 10, 4001)
    advantage = float((stats.norm.sf(thresholds, 0.5) - stats.norm.sf(thresholds)).max())
    found = float(stats.norm.sf(stats.norm.isf(0.01), 0.5))
    curve = TradeoffCurve([event])
    assert curve.advantage == pytest.approx(advantage, abs=1e-6)
    assert curve.ceiling(0.01) == pytest.approx(found)
    words = in_words(event, epsilon, 1e-5)
    factor, chance, best, _, _, one, share = (float(text) for text in re.findall(r"\d[\d.]*(?:e-\d+)?", words))
    assert math.exp(epsilon) <= factor <= 1.01 * math.exp(epsilon)
    assert chance == 1e-5
    assert one == 1
    assert 100 * advantage <= best <= 100 * advantage + 1
    assert 100 * found <= share <= 100 * found + 1


def test_sampled_releases_are_bounded_from_above_by_the_same_releases_of_every_example() -> None:
    every, some = TradeoffCurve([SampledGaussian(2.0, 1.0)]), TradeoffCurve([SampledGaussian(2.0, 0.2)])
    exact = 0.2 * every.advantage  # of (1-q) N(0) + q N(1) against N(0)
    assert exact - 1e-9 <= some.advantage <= exact + 0.01  # the accountant's own error
    assert 0.01 <= some.ceiling(0.01) < every.ceiling(0.01)


@pytest.mark.parametrize("rate", [1.0, 0.1])
@pytest.mark.parametrize("sigma", [1e-300, 1e-3, 2.0**20])
def test_extreme_claims_have_words(rate: float, sigma: float) -> None:
    words = in_words(SampledGaussian(sigma, rate, 10), best_epsilon([SampledGaussian(1e-3, rate)], 1e-5), 1e-5)
    assert re.search(r"advantage of at most [\d.e-]+ %", words)
    assert "nan" not in words


def test_a_large_delta_is_said() -> None:
    assert "with a probability of 50 % an example may be laid open" in in_words(SampledGaussian(5.0, 1.0), 1.0, 0.5)
