"""Calibration: each answer is affordable, and a little more is not."""

from __future__ import annotations

import math

import pytest

from private_distdd.errors import ConfigurationError
from private_distdd.privacy.accountants import PRV, epsilon
from private_distdd.privacy.accountants import prv as prv_module
from private_distdd.privacy.calibration import (
    affordable_queries,
    calibrate_noise_multiplier,
    epsilon_after_each_query,
    largest_sample_rate,
)
from private_distdd.privacy.events import NotPrivate, SampledGaussian

DELTA = 1e-5
CASES = [(8.0, 0.1, 100), (1.0, 0.05, 100), (0.1, 0.01, 50), (30.0, 0.3, 20), (2.0, 0.9, 20), (0.02, 0.02, 10)]


def cost(target, sigma, rate, queries, *spent):
    return epsilon([*spent, SampledGaussian(sigma, rate, queries)], DELTA, PRV.for_budget(target))


class TestNoiseMultiplier:
    @pytest.mark.parametrize(("target", "rate", "queries"), CASES)
    def test_is_affordable_and_least(self, target, rate, queries):
        sigma = calibrate_noise_multiplier(target, DELTA, rate, queries)
        assert cost(target, sigma, rate, queries) <= target
        assert cost(target, sigma * (1 - 1.5e-3), rate, queries) > target

    @pytest.mark.parametrize("target", [1e-6, 0.01, 1.0, 54.376639, 1e4])
    def test_closed_form(self, target):
        sigma = calibrate_noise_multiplier(target, DELTA, 1.0, 5000)
        assert cost(target, sigma, 1.0, 5000) <= target
        assert cost(target, sigma * (1 - 1e-7), 1.0, 5000) > target

    def test_golden_gaussian(self):
        assert calibrate_noise_multiplier(54.376639, DELTA, 1.0, 5000) == pytest.approx(10.0, rel=1e-6)

    def test_unreachable_targets_are_refused(self):
        with pytest.raises(ConfigurationError, match="epsilon = 1e-09") as refused:
            calibrate_noise_multiplier(1e-9, 1e-300, 0.1, 100)
        assert "; allowed: " in str(refused.value)

    def test_a_tiny_target_is_reached(self):  # RDP alone could prove none of the kind
        sigma = calibrate_noise_multiplier(1e-9, 1e-12, 0.1, 100)

        def upper(sigma):
            return epsilon([SampledGaussian(sigma, 0.1, 100)], 1e-12, PRV.for_budget(1e-9))

        assert upper(sigma) <= 1e-9 < upper(sigma * (1 - 1.5e-3))

    def test_a_cross_check_that_asks_for_more_is_heard(self, monkeypatch):
        honest = calibrate_noise_multiplier(1.0, DELTA, 0.05, 100)
        ours = prv_module._bracket.__wrapped__

        def stricter(terms, delta, eps_error, cross_check):
            got = ours(terms, delta, eps_error, False)
            return type(got)(got.lower, got.estimate, got.upper * (1.01 if cross_check else 1.0))

        monkeypatch.setattr(prv_module, "_bracket", stricter)
        assert calibrate_noise_multiplier(1.0, DELTA, 0.05, 100) > 1.005 * honest

    @pytest.mark.parametrize(
        "bad",
        [
            (0.0, DELTA, 0.1, 10),
            (math.inf, DELTA, 0.1, 10),
            (math.nan, DELTA, 0.1, 10),
            (1.0, 0.0, 0.1, 10),
            (1.0, DELTA, 0.0, 10),
            (1.0, DELTA, 1.1, 10),
            (1.0, DELTA, math.nan, 10),
            (1.0, DELTA, 0.1, 0),
            (1.0, DELTA, 0.1, 1.5),
        ],
    )
    def test_refuses(self, bad):
        with pytest.raises(ConfigurationError):
            calibrate_noise_multiplier(*bad)


class TestReverseQuestions:
    @pytest.mark.parametrize(("sigma", "target", "rate"), [(2.0, 8.0, 0.1), (1.0, 1.0, 0.01), (20.0, 3.0, 1.0)])
    def test_affordable_queries(self, sigma, target, rate):
        queries = affordable_queries(sigma, target, DELTA, rate)
        assert cost(target, sigma, rate, queries) <= target < cost(target, sigma, rate, queries + 1)

    def test_affordable_queries_after_others(self):
        spent = SampledGaussian(3.0, 0.05, 500)
        queries = affordable_queries(2.0, 8.0, DELTA, 0.1, [spent])
        assert 0 < queries < affordable_queries(2.0, 8.0, DELTA, 0.1)
        assert cost(8.0, 2.0, 0.1, queries, spent) <= 8.0 < cost(8.0, 2.0, 0.1, queries + 1, spent)

    def test_nothing_is_affordable(self):
        assert affordable_queries(0.1, 1.0, DELTA, 0.5) == 0
        assert affordable_queries(10.0, 1.0, DELTA, 0.5, [NotPrivate()]) == 0
        assert affordable_queries(10.0, 1.0, DELTA, 0.5, [SampledGaussian(0.1, 0.5)]) == 0

    def test_everything_is_affordable(self):
        assert affordable_queries(1e9, 8.0, DELTA, 0.01) == 10**9

    def test_plans_agree(self):
        sigma = calibrate_noise_multiplier(4.0, DELTA, 0.1, 200)
        assert 200 <= affordable_queries(sigma, 4.0, DELTA, 0.1) <= 201
        assert largest_sample_rate(sigma, 4.0, DELTA, 200) == pytest.approx(0.1, rel=3e-3)

    @pytest.mark.parametrize(("sigma", "target", "queries"), [(1.0, 2.0, 100), (0.6, 0.5, 20)])
    def test_largest_sample_rate(self, sigma, target, queries):
        rate = largest_sample_rate(sigma, target, DELTA, queries)
        assert cost(target, sigma, rate, queries) <= target < cost(target, sigma, rate * 1.0015, queries)

    def test_all_examples_may_take_part(self):
        assert largest_sample_rate(100.0, 8.0, DELTA, 10) == 1.0

    def test_no_rate_is_small_enough(self):
        with pytest.raises(ConfigurationError, match="epsilon"):
            largest_sample_rate(1.0, 1e-9, 1e-300, 10)

    def test_a_rate_at_which_hardly_a_coin_falls(self):
        assert largest_sample_rate(1.0, 1e-9, 1e-12, 10) == pytest.approx(1e-13, rel=2e-3)  # 10 q = delta

    def test_epsilon_after_each_query(self):
        spent = [SampledGaussian(3.0, 0.05, 10)]
        bill = epsilon_after_each_query(2.0, 0.1, DELTA, 500, spent)
        assert len(bill) == 500
        assert bill == sorted(bill)
        assert bill[99] == epsilon([*spent, SampledGaussian(2.0, 0.1, 100)], DELTA, "rdp")
        tighter = epsilon_after_each_query(2.0, 0.1, DELTA, 3, spent, accountant="prv")
        assert all(a <= b for a, b in zip(tighter, bill, strict=False))

    @pytest.mark.parametrize("question", [affordable_queries, largest_sample_rate])
    @pytest.mark.parametrize(("sigma", "target", "delta"), [(0, 1.0, DELTA), (1.0, -1.0, DELTA), (1.0, 1.0, 2.0)])
    def test_refuses(self, question, sigma, target, delta):
        with pytest.raises(ConfigurationError):
            question(sigma, target, delta, 1)
