"""PRV's discretisation: it never promises too much, and how much it gives away."""

from __future__ import annotations

import math
import warnings

import mpmath
import numpy as np
import pytest

from private_distdd.privacy.accountants import best_epsilon, bracket, dots, epsilon
from private_distdd.privacy.accountants.gdp import gaussian_epsilon
from private_distdd.privacy.events import SampledGaussian

with warnings.catch_warnings():  # those of the library, at its import, are not ours
    warnings.simplefilter("ignore")
    from dp_accounting import pld
from oracle import DELTA, oracle_epsilon


def hockey_stick(sigma: float, q: float, eps: float, direction: str) -> float:
    """delta of one release in closed form, to 40 digits."""
    with mpmath.workdps(40):
        s, q, gamma = mpmath.mpf(sigma), mpmath.mpf(q), mpmath.exp(eps)

        def above(x):  # P(N(0, 1) > x)
            return mpmath.erfc(x / mpmath.sqrt(2)) / 2

        if direction == "remove":
            x = (s**2 * mpmath.log((gamma - 1 + q) / q) + 0.5) / s
            return float((1 - q - gamma) * above(x) + q * above(x - 1 / s))
        if 1 / gamma <= 1 - q:
            return 0.0
        x = (s**2 * mpmath.log((1 / gamma - 1 + q) / q) + 0.5) / s
        return float((1 - gamma * (1 - q)) * above(-x) - gamma * q * above(1 / s - x))


class TestDots:
    """The bound on a coarse grid: never too low, whatever the step, and tight with its own."""

    ONE = ((0.05, 0.01), (0.3, 1e-6), (0.3, 0.5), (1.0, 1e-6), (1.0, 0.5), (5.0, 0.01), (1e3, 0.5), (2.0, 1.0))

    @staticmethod
    def lowest_excess(sigma, q, tail):
        """The smallest bound / truth of one release over both directions and many epsilons, and the bounds."""
        bounds = dots._bounds((SampledGaussian(sigma, q),), tail)
        assert len(bounds) == 2
        excess = []
        for direction, bound in zip(("remove", "add"), bounds, strict=True):
            for share in (0.0, 0.1, 0.5, 0.9, 1.0, 1.1):
                at = share * bound.epsilon_at(max(1e-5, 2 * tail))
                truth = hockey_stick(sigma, q, at, direction)
                excess.append((bound.delta_at(at) - truth) / max(truth, 1e-12))
        return min(excess), bounds

    @pytest.mark.parametrize("points", [2**8, 2**12, 2**18])
    @pytest.mark.parametrize(("sigma", "q"), ONE)
    def test_one_release_lies_above_the_truth_on_any_grid(self, sigma, q, points, monkeypatch):
        monkeypatch.setattr(dots, "POINTS", points)
        dots._bounds.cache_clear()
        lowest, _ = self.lowest_excess(sigma, q, 1e-9)
        dots._bounds.cache_clear()
        assert lowest >= 0

    @pytest.mark.parametrize(("sigma", "q"), [(0.3, 0.5), (1.0, 0.5), (5.0, 0.01)])
    def test_one_release_is_tight(self, sigma, q):
        lowest, (remove, add) = self.lowest_excess(sigma, q, 1e-9)
        assert lowest < 1e-3
        for direction, bound in (("remove", remove), ("add", add)):
            at = 0.7 * bound.epsilon_at(1e-5)
            assert bound.delta_at(at) <= 1.002 * hockey_stick(sigma, q, at, direction) + 1e-9

    def test_losses_rounded_to_the_nearest_point_are_caught(self, monkeypatch):
        def nearest(loss, step):
            return np.rint(loss.values / step).astype(np.int64), loss.mass

        monkeypatch.setattr(dots, "_on_grid", nearest)
        monkeypatch.setattr(dots, "POINTS", 2**8)
        dots._bounds.cache_clear()
        lowest = min(self.lowest_excess(sigma, q, 1e-9)[0] for sigma, q in self.ONE)
        dots._bounds.cache_clear()
        assert lowest < 0

    def test_a_sum_that_leaves_the_window_is_charged(self):
        # With a tail of 10 % most of what is above the window is in the slack, and the bound still holds.
        lowest, bounds = self.lowest_excess(1.0, 0.5, 0.1)
        assert lowest >= 0
        assert all(bound.slack > 0.1 for bound in bounds)

    @pytest.mark.parametrize(("sigma", "count"), [(0.5, 1), (10.0, 50), (1.0, 100_000), (300.0, 7)])
    def test_gaussians_in_closed_form(self, sigma, count):
        exact = epsilon([SampledGaussian(sigma, 1.0, count)], DELTA, "gdp")
        got = dots.upper_epsilon((SampledGaussian(sigma, 1.0, count),), DELTA)
        assert exact * (1 - 1e-6) <= got <= 1.001 * exact

    def test_many_rare_coins_are_a_gaussian_in_the_limit(self):
        # mu = q sqrt(T (e^(1/sigma^2) - 1)): Bu, Dong, Long and Su 2020, theorem 5; here within 1e-4 of the truth
        mu = 1e-4 * math.sqrt(1e7 * math.expm1(1 / 9))
        got = dots.upper_epsilon((SampledGaussian(3.0, 1e-4, 10**7),), DELTA)
        assert gaussian_epsilon(mu, DELTA) * (1 - 1e-3) <= got <= 1.03 * gaussian_epsilon(mu, DELTA)

    def test_heterogeneous_histories(self):
        terms = (SampledGaussian(0.8, 0.01, 40), SampledGaussian(2.0, 0.3, 20), SampledGaussian(4.0, 1.0, 3))
        optimistic = bracket(list(terms), DELTA).lower
        assert optimistic <= dots.upper_epsilon(terms, DELTA) <= 1.002 * oracle_epsilon(list(terms), DELTA)

    def test_delta_inverts_epsilon(self):
        terms = (SampledGaussian(1.0, 0.01, 100_000),)
        got = dots.upper_epsilon(terms, DELTA)
        assert dots.upper_delta(terms, got) == pytest.approx(DELTA, rel=2e-3)

    def test_outside_its_range_it_claims_nothing(self):
        for event in (SampledGaussian(0.01, 0.5), SampledGaussian(1e200, 0.5), SampledGaussian(1.0, 1e-300)):
            assert dots.upper_epsilon((event,), DELTA) == math.inf
            assert dots.upper_delta((event,), 1.0) == 1.0
        assert dots.upper_epsilon((SampledGaussian(1.0, 0.5),), 1e-300) == math.inf

    def test_chance_of_any_coin(self):
        terms = (SampledGaussian(1e-3, 1e-6, 10), SampledGaussian(1.0, 2e-6, 5))
        assert 1.99989e-5 <= dots.chance_of_any_coin(terms) <= 2.00001e-5
        assert dots.chance_of_any_coin((SampledGaussian(1.0, 1.0),)) == 1.0
        assert bracket(list(terms), 2.1e-5).upper == 0.0
        assert bracket(list(terms), 1.9e-5).upper > 0.0


class TestLooseness:
    """`benchmarks/looseness.py` draws many; these are the kinds of setting in which the bill was loose."""

    @pytest.mark.parametrize(
        ("sigma", "q", "count", "at"),
        [
            (0.34, 2.6e-6, 106, 1e-5),  # was 190 times too high
            (1.0, 0.01, 100_000, 1e-5),
            (0.3, 1e-4, 30_000, 1e-5),
            (3.0, 1e-4, 30_000, 1e-6),
            (0.5, 0.5, 5000, 1e-5),
        ],
    )
    def test_is_small_where_the_fine_grid_is_given_up(self, sigma, q, count, at):
        ours = best_epsilon([SampledGaussian(sigma, q, count)], at)
        near = max(ours, 1e-3) / math.sqrt(count)

        def oracle(pessimistic, step):
            found = pld.privacy_loss_distribution.from_gaussian_mechanism(
                sigma,
                sampling_prob=q,
                pessimistic_estimate=pessimistic,
                use_connect_dots=pessimistic,
                value_discretization_interval=max(step, 20 / sigma**2 / 2**20),
            )
            return found.self_compose(count).get_epsilon_for_delta(at)

        assert oracle(False, near / 1000) <= ours <= 1.02 * oracle(True, near / 30)
