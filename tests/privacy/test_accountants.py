"""Every epsilon the library prints: golden values, an independent oracle, and what all accountants have in common."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import warnings
from dataclasses import fields

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from private_distdd.errors import ConfigurationError
from private_distdd.privacy import accountants
from private_distdd.privacy.accountants import GDP, PRV, RDP, RdpFilter, best_epsilon, bracket, delta, dots, epsilon
from private_distdd.privacy.accountants import prv as prv_module
from private_distdd.privacy.accountants.base import MAX_DISTINCT, coarsened
from private_distdd.privacy.accountants.gdp import gaussian_epsilon
from private_distdd.privacy.accountants.loss import AddLoss, RemoveLoss
from private_distdd.privacy.accountants.rdp import ORDERS, renyi_divergences
from private_distdd.privacy.events import MAX_COUNT, Composition, NotPrivate, SampledGaussian

with warnings.catch_warnings():  # those of the library, at its import, are not ours
    warnings.simplefilter("ignore")
    import dp_accounting
    import opacus.accountants
    from dp_accounting import pld

# (q, sigma, T) -> epsilon at delta 1e-5.  Sources: dp_accounting 0.6, PLDAccountant, for sampled events; for q = 1
# Balle and Wang 2018, theorem 8, solved to 1e-10.
SAMPLED = {
    (0.01, 1.0, 100): 0.71804,
    (0.01, 0.5, 5000): 28.9393,
    (0.1, 1.0, 100): 7.0466,
    (0.1, 2.0, 5000): 22.514,
    (0.001, 1.0, 5000): 0.33190,
}
GAUSSIAN = {(1.0, 1.0, 100): 91.8173, (1.0, 10.0, 5000): 54.3766}
DELTA = 1e-5

PRIVATE_EVENT = st.builds(
    SampledGaussian,
    noise_multiplier=st.floats(0.8, 8.0),
    sample_rate=st.one_of(st.floats(-6.0, -0.05).map(math.exp), st.just(1.0)),
    count=st.integers(1, 60),
)
SAMPLED_EVENT = PRIVATE_EVENT.filter(lambda event: event.sample_rate < 1)
DELTAS = st.floats(-7.0, -3.0).map(lambda exponent: 10.0**exponent)


def oracle_epsilon(events: list[SampledGaussian], at: float, interval: float = 5e-4) -> float:
    """Google's PLD accountant: pessimistic by some of its interval, in the worse of both directions."""
    accountant = pld.PLDAccountant(value_discretization_interval=interval)
    for event in events:
        release = dp_accounting.GaussianDpEvent(event.noise_multiplier)
        if event.sample_rate < 1:
            release = dp_accounting.PoissonSampledDpEvent(event.sample_rate, release)
        accountant.compose(dp_accounting.SelfComposedDpEvent(release, event.count))
    found = float(accountant.get_epsilon(at))
    # The brackets of small epsilons are narrower than that pessimism.
    return oracle_epsilon(events, at, interval / 10) if found < 0.5 and interval > 1e-4 else found


def assert_brackets_the_oracle(events: list[SampledGaussian], at: float) -> None:
    expected = oracle_epsilon(events, at)
    got = bracket(events, at)
    assert got.note == ""
    assert got.lower <= expected + 1e-6 * (1 + expected)
    assert expected <= got.upper * (1 + 1e-6) + 1e-4
    assert expected <= epsilon(events, at, "rdp") + 1e-4


class TestGolden:
    @pytest.mark.parametrize(("mechanism", "expected"), SAMPLED.items())
    def test_prv(self, mechanism, expected):
        q, sigma, count = mechanism
        got = bracket([SampledGaussian(sigma, q, count)], DELTA)
        assert got.note == ""
        assert got.lower <= expected
        assert expected - 1e-4 <= got.upper <= expected + (0.011 if expected < 0.75 else 0.015 * expected)

    @pytest.mark.parametrize(("mechanism", "expected"), SAMPLED.items())
    def test_rdp_lies_above_by_its_known_looseness(self, mechanism, expected):
        q, sigma, count = mechanism
        got = epsilon([SampledGaussian(sigma, q, count)], DELTA, "rdp")
        assert expected <= got <= (1.15 if expected > 1 else 2.5) * expected

    @pytest.mark.parametrize(("mechanism", "expected"), GAUSSIAN.items())
    @pytest.mark.parametrize("accountant", ["gdp", "prv"])
    def test_gaussian_closed_form(self, mechanism, expected, accountant):
        _, sigma, count = mechanism
        got = epsilon([SampledGaussian(sigma, 1.0, count)], DELTA, accountant)
        assert got == pytest.approx(expected, abs=5e-5)
        mu = math.sqrt(count) / sigma
        log_first, log_second = norm.logcdf(mu / 2 - got / mu), got + norm.logcdf(-mu / 2 - got / mu)
        balle_wang = math.exp(log_first) - math.exp(log_second)
        assert balle_wang == pytest.approx(DELTA, rel=1e-6)

    def test_add_direction_alone(self):
        # dp_accounting's PLD of the add direction, and the same from a direct convolution
        terms = (SampledGaussian(1.0, 0.1, 100),)
        profiles = prv_module._profiles(terms, 0.01, DELTA / 1000)
        assert profiles["add"].epsilon_at(DELTA) == pytest.approx(3.98916, abs=1e-4)
        assert profiles["remove"].epsilon_at(DELTA) == pytest.approx(7.0466, abs=1e-4)

    def test_the_worse_direction_is_reported(self):
        # One release with q = .5, sigma = 5 at a delta where neither direction is negligible.
        terms = (SampledGaussian(5.0, 0.5, 10),)
        profiles = prv_module._profiles(terms, 0.01, 1e-4)
        estimate = bracket(terms, 0.1, PRV(eps_error=0.01)).estimate
        assert estimate == max(0.0, *(p.epsilon_at(0.1) for p in profiles.values()))

    def test_opacus_agrees_on_removal(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = opacus.accountants.PRVAccountant()
            theirs.history = [(1.0, 0.1, 60), (2.0, 0.05, 40)]
            expected = theirs.get_epsilon(DELTA)
        ours = epsilon([SampledGaussian(1.0, 0.1, 60), SampledGaussian(2.0, 0.05, 40)], DELTA)
        assert ours == pytest.approx(expected, abs=2e-3)

    def test_stacked_networks_cost_one_event(self):
        # 10 networks on one draw of coins against 10 draws (the design's example: 2.85 against 13.8 over some rounds)
        together = epsilon([SampledGaussian(1 / math.sqrt(10), 0.1)], DELTA)
        apart = epsilon([SampledGaussian(1.0, 0.1, 10)], DELTA)
        assert epsilon([SampledGaussian(1.0, 0.1)], DELTA) < apart < together
        # Without coins to amplify, 10 networks on one draw and 10 draws are one and the same.
        gaussian = epsilon([SampledGaussian(1 / math.sqrt(10), 1.0)], DELTA, "gdp")
        assert gaussian == pytest.approx(epsilon([SampledGaussian(1.0, 1.0, 10)], DELTA, "gdp"), rel=1e-9)


class TestOracle:
    @settings(max_examples=50, deadline=None)
    @given(st.lists(PRIVATE_EVENT, min_size=1, max_size=3), DELTAS)
    def test_heterogeneous_histories(self, events, at):
        assert_brackets_the_oracle(events, at)

    @pytest.mark.slow
    @settings(max_examples=2000, deadline=None)
    @given(st.lists(PRIVATE_EVENT, min_size=1, max_size=4), DELTAS)
    def test_heterogeneous_histories_at_length(self, events, at):
        assert_brackets_the_oracle(events, at)

    @pytest.mark.parametrize(("q", "sigma"), [(0.1, 1.0), (0.01, 0.5), (0.5, 3.0), (0.001, 20.0), (0.9, 0.7)])
    def test_renyi_divergences(self, q, sigma):
        # The libraries' series does not converge at every low fractional order; direct quadrature does.
        def integrand(x, order):
            log_ratio = math.log(1 - q + q * math.exp((x - 0.5) / sigma**2))
            return math.exp(order * log_ratio - x * x / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))

        ours = dict(zip(ORDERS, renyi_divergences(sigma, q), strict=True))
        for order in (1.01, 1.1, 1.5, 3.3, 10.9):
            edges = np.linspace(-10 * sigma, order + 10 * sigma, 9)
            moment = sum(
                quad(integrand, a, b, args=(order,), epsabs=0, epsrel=1e-12)[0] for a, b in itertools.pairwise(edges)
            )
            assert ours[order] * (order - 1) == pytest.approx(math.log(moment), rel=1e-6, abs=1e-12)
        whole = [order for order in ORDERS if order.is_integer()]
        expected = opacus.accountants.analysis.rdp.compute_rdp(q=q, noise_multiplier=sigma, steps=1, orders=whole)
        np.testing.assert_allclose([ours[order] for order in whole], expected, rtol=1e-6, atol=1e-11)

    @pytest.mark.parametrize("q", [1e-14, 1e-12, 1e-9])
    @pytest.mark.parametrize("sigma", [0.5, 1.0, 50.0])
    def test_renyi_divergences_of_small_rates(self, sigma, q):
        # to first order in q the moment is 1 + a(a-1)/2 q^2 (e^(1/sigma^2) - 1); moments rounded to 1 + 1e-16 lose it
        orders = tuple(order for order in ORDERS if order < 4)
        got = renyi_divergences(sigma, q, orders)
        exact = np.asarray(orders) / 2 * q * q * math.expm1(1 / sigma**2)
        np.testing.assert_allclose(got, exact, rtol=1e-5)
        at_least_two = np.asarray(orders) >= 2  # below, the next term of the expansion is negative
        assert np.all(got[at_least_two] >= exact[at_least_two])

    @pytest.mark.parametrize("q", [1e-9, 1e-8, 1e-7])
    def test_rdp_is_above_the_limit_of_rare_coins(self, q):
        # sigma 1, q 1e-9 and 1e18 releases were .825 against 6.01: the sum of so many releases is a Gaussian
        mu = q * math.sqrt(MAX_COUNT * math.expm1(1))
        got = epsilon([SampledGaussian(1.0, q, MAX_COUNT)], DELTA, "rdp")
        assert gaussian_epsilon(mu, DELTA) <= got <= 1.7 * gaussian_epsilon(mu, DELTA)

    def test_chord_bound_lies_above_the_quadrature(self):
        exact, bounded = renyi_divergences(0.0301, 0.2), renyi_divergences(0.0299, 0.2)
        assert np.all(bounded >= exact)

    @pytest.mark.parametrize("loss", [RemoveLoss(1.0, 0.1), AddLoss(1.0, 0.1), RemoveLoss(0.3, 0.7), AddLoss(0.3, 0.7)])
    def test_losses_match_samples(self, loss):
        rng = np.random.default_rng(0)
        remove = isinstance(loss, RemoveLoss)
        x = loss.sigma * rng.standard_normal(400_000) + (rng.random(400_000) < loss.q if remove else 0.0)
        y = np.log(1 - loss.q + loss.q * np.exp((x - 0.5) / loss.sigma**2)) * (1 if remove else -1)
        assert loss.mean() == pytest.approx(y.mean(), abs=5 * y.std() / math.sqrt(len(y)))
        at = np.quantile(y, [0.05, 0.3, 0.5, 0.9, 0.99]) + 1e-9
        np.testing.assert_allclose(loss.cdf(at), [0.05, 0.3, 0.5, 0.9, 0.99], atol=5e-3)


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


class TestWorkIsBounded:
    """By a rule of (events, delta, eps_error) alone; what is counted is points and divergences, not seconds."""

    @pytest.fixture
    def work(self, monkeypatch):
        """What was computed since: points of PRV's transforms, of prv-accountant's losses, grids of the dots."""
        from prv_accountant import discretisers

        done = {"prv": 0, "microsoft": 0, "dots": 0}
        transform, cells, on_grid = prv_module._transform, discretisers.CellCentred.discretise, dots._on_grid

        def counted_transform(sigma, q, direction, grid):
            done["prv"] += grid.points
            return transform(sigma, q, direction, grid)

        def counted_cells(self, loss, domain):
            done["microsoft"] += len(domain.ts())
            return cells(self, loss, domain)

        def counted_on_grid(loss, step):
            done["dots"] += 1
            return on_grid(loss, step)

        monkeypatch.setattr(prv_module, "_transform", counted_transform)
        monkeypatch.setattr(discretisers.CellCentred, "discretise", counted_cells)
        monkeypatch.setattr(dots, "_on_grid", counted_on_grid)
        for cache in (prv_module._bracket, prv_module._profile, prv_module._microsoft_composer, dots._bounds):
            cache.cache_clear()
        return done

    @pytest.mark.parametrize(
        "events",
        [
            [SampledGaussian(5.0, 0.001, 3)],  # a small epsilon: the cross-check took 21 s
            [SampledGaussian(16.7, 6.6e-5, 241)],
            [SampledGaussian(0.5, 0.01, 8000)],
            [SampledGaussian(1 + i / 100, 0.1, 3) for i in range(30)],
            [SampledGaussian(1 + i / 100, 0.1, 3) for i in range(150)],  # took 48 s
            [SampledGaussian(5 + i / 100, 0.01 + i / 10**5) for i in range(1000)],
        ],
        ids=["small", "smaller", "many points", "30 mechanisms", "150", "1000"],
    )
    def test_of_one_call(self, events, work):
        got = bracket(events, DELTA)
        assert 0 <= got.lower <= got.upper <= 10 * epsilon(events, DELTA, "rdp")
        assert work["prv"] <= 2 * 2 * prv_module.MAX_WORK  # two directions, of a first and of a final grid
        assert work["microsoft"] <= 2 * 1.01 * prv_module.CHECKED_WORK
        assert work["dots"] <= 2 * dots.MOST_TERMS

    def test_a_coarser_cross_check_still_checks(self, work, monkeypatch):
        event = SampledGaussian(5.0, 0.001, 3)
        honest = bracket([event], DELTA)
        assert honest.note == ""
        assert work["microsoft"] > 0
        theirs = prv_module._microsoft
        monkeypatch.setattr(prv_module, "_microsoft", lambda *a: tuple(2 * value for value in theirs(*a)))
        prv_module._bracket.cache_clear()
        assert bracket([event], DELTA).note != ""
        prv_module._bracket.cache_clear()

    def test_a_cross_check_beyond_its_work_is_skipped_and_noted(self, work):
        got = bracket([SampledGaussian(4.0, 0.0004, 691)], DELTA)
        assert got.note == "not cross-checked: the grid is too large"
        assert work["microsoft"] == 0

    def test_many_mechanisms_are_noted(self, work):
        got = bracket([SampledGaussian(1 + i / 100, 0.1, 3) for i in range(150)], DELTA)
        assert "mechanisms" in got.note
        assert work["prv"] == 0

    def test_of_many_divergences(self):
        events = [SampledGaussian(1 + i / 1000, 0.1234) for i in range(1000)]
        before = renyi_divergences.cache_info().misses
        got = epsilon(events, DELTA, "rdp")
        assert renyi_divergences.cache_info().misses - before <= MAX_DISTINCT
        cheapest = epsilon([SampledGaussian(2.0, 0.1234, 1000)], DELTA, "rdp")
        dearest = epsilon([SampledGaussian(1.0, 0.1234, 1000)], DELTA, "rdp")
        assert cheapest < got < dearest


class TestCoarsened:
    def test_small_histories_stay(self):
        terms = tuple(SampledGaussian(1.0 + i, 0.1) for i in range(8))
        assert coarsened(terms, 8) is terms

    @pytest.mark.parametrize("most", [1, 2, 5, 30])
    def test_costs_more_but_not_much_more_than_it_must(self, most):
        terms = tuple(SampledGaussian(1.0 + i / 50, 0.1 + i / 1000, 2) for i in range(40))
        coarse = coarsened(terms, most)
        assert len(coarse) <= most
        assert sum(term.count for term in coarse) == 80
        exact, dearer = (epsilon(list(history), DELTA, "rdp") for history in (terms, coarse))
        assert exact < dearer <= (1.1 if most == 30 else 3) * exact

    def test_every_release_is_replaced_by_a_dearer_one(self):
        rng = np.random.default_rng(0)
        for _ in range(200):
            term = SampledGaussian(float(10 ** rng.uniform(-300, 300)), float(10 ** rng.uniform(-300, 0)))
            other = SampledGaussian(5e-324, 5e-324)
            for coarse in coarsened((term, SampledGaussian(1.7e308, 1.0), other), 2):
                assert coarse.noise_multiplier <= 1.7e308
            (alone,) = coarsened((term, SampledGaussian(term.noise_multiplier * 1.5, term.sample_rate)), 1)
            assert alone.noise_multiplier <= term.noise_multiplier
            assert alone.sample_rate >= term.sample_rate

    def test_whatever_is_legal_can_be_made_one(self):
        extremes = [SampledGaussian(s, q) for s in (5e-324, 1.0, 1.7e308) for q in (5e-324, 0.5, 1.0)]
        assert coarsened(tuple(sorted(extremes)), 1) == (SampledGaussian(5e-324, 1.0, 9),)


class AccountantConformance:
    """What every accountant promises; a subclass names the accountant and a history it can read."""

    accountant: accountants.Accountant
    event: SampledGaussian

    def upper(self, *events, at=DELTA):
        return epsilon(list(events), at, self.accountant)

    def test_has_a_name_that_selects_it(self):
        assert self.upper(self.event) == epsilon([self.event], DELTA, self.accountant.name)

    def test_nothing_costs_nothing(self):
        assert bracket([], DELTA, self.accountant) == accountants.Bracket(0.0, 0.0, 0.0)
        assert delta([], 0.0, self.accountant) == 0.0

    def test_no_guarantee_costs_everything(self):
        assert self.upper(self.event, NotPrivate()) == math.inf
        assert delta([Composition((self.event, NotPrivate()))], 3.0, self.accountant) == 1.0

    def test_bracket_is_ordered(self):
        got = bracket([self.event], DELTA, self.accountant)
        assert 0 <= got.lower <= got.estimate <= got.upper < math.inf

    def test_order_and_merging_do_not_matter(self):
        s, q, n = self.event.noise_multiplier, self.event.sample_rate, self.event.count
        other = SampledGaussian(2 * s, q, 3)
        whole = self.upper(self.event, other)
        assert whole == self.upper(other, self.event)
        assert whole == self.upper(*[SampledGaussian(s, q)] * n, other)
        assert whole == self.upper(Composition((Composition((other,)), self.event)))
        assert whole == self.upper(*(event for event in (other, self.event)))

    def test_monotone(self):
        s, q, n = self.event.noise_multiplier, self.event.sample_rate, self.event.count
        base = self.upper(self.event)
        assert self.upper(SampledGaussian(1.1 * s, q, n)) < base
        assert self.upper(SampledGaussian(s, q, n + max(1, n // 10))) > base
        assert self.upper(self.event, at=2 * DELTA) < base
        if q < 1:
            assert self.upper(SampledGaussian(s, 1.1 * q, n)) > base

    def test_delta_inverts_epsilon(self):
        got = bracket([self.event], DELTA, self.accountant)
        assert delta([self.event], got.upper + 0.011, self.accountant) <= DELTA * 1.001
        assert delta([self.event], 0.9 * got.upper, self.accountant) > DELTA

    def test_curve_falls(self):
        curve = accountants.epsilon_delta_curve([self.event], [0.5, 1.0, 2.0, 4.0], self.accountant)
        assert [point[0] for point in curve] == [0.5, 1.0, 2.0, 4.0]
        deltas = [point[1] for point in curve]
        assert deltas == sorted(deltas, reverse=True)
        assert deltas[1] == delta([self.event], 1.0, self.accountant)

    def test_zero_only_where_delta_allows_it(self):
        s, q = self.event.noise_multiplier, self.event.sample_rate
        quiet = [SampledGaussian(1e6 * s, q)]
        assert self.upper(*quiet, at=0.5) == 0
        for at in (1e-5, 1e-9):
            if self.upper(self.event, at=at) == 0:
                assert delta([self.event], 0.0, self.accountant) <= at

    def test_ten_classes_cost_what_one_costs(self):
        # A query is one event however many classes it answers: an event has no place for a number of classes.
        assert {field.name for field in fields(self.event)} == {"noise_multiplier", "sample_rate", "count"}

    @pytest.mark.parametrize("bad", [0, 1, -1e-5, math.nan, math.inf, "1e-5", None, True])
    def test_refuses_delta(self, bad):
        with pytest.raises(ConfigurationError, match="delta"):
            self.upper(self.event, at=bad)

    @pytest.mark.parametrize("bad", [-1, math.nan, math.inf, "1", None, True])
    def test_refuses_epsilon(self, bad):
        with pytest.raises(ConfigurationError, match="epsilon"):
            delta([self.event], bad, self.accountant)

    @pytest.mark.parametrize("bad", [None, 3, "abc", [object()], [("sampled_gaussian", 1.0)]])
    def test_refuses_what_is_no_history(self, bad):
        with pytest.raises(ConfigurationError, match="events"):
            epsilon(bad, DELTA, self.accountant)

    def test_refuses_a_single_event(self):
        with pytest.raises(ConfigurationError, match="events"):
            epsilon(self.event, DELTA, self.accountant)

    @pytest.mark.parametrize("sigma", [5e-324, 1e-10, 0.03, 1e5, 1.7e308])
    @pytest.mark.parametrize("count", [1, 10**9, MAX_COUNT], ids=["one", "1e9", "most"])
    def test_odd_inputs_are_answered(self, sigma, count):
        rate = self.event.sample_rate
        for q in {rate, rate if rate == 1 else 1e-300}:
            for at in (1e-300, 1e-5, 1 - 1e-12):
                got = bracket([SampledGaussian(sigma, q, count)], at, self.accountant)
                assert 0 <= got.lower <= got.estimate <= got.upper
                assert 0 <= delta([SampledGaussian(sigma, q, count)], 1.0, self.accountant) <= 1


class TestRDP(AccountantConformance):
    accountant = RDP()
    event = SampledGaussian(1.0, 0.1, 50)


class TestPRV(AccountantConformance):
    accountant = PRV()
    event = SampledGaussian(1.0, 0.1, 50)

    @settings(max_examples=20, deadline=None)
    @given(SAMPLED_EVENT, st.floats(1.2, 2.0), DELTAS)
    def test_monotone_everywhere(self, event, factor, at):
        def upper(sigma, q, count, at):
            return epsilon([SampledGaussian(sigma, q, count)], at, PRV(cross_check=False))

        s, q, n = event.noise_multiplier, event.sample_rate, event.count
        base = upper(s, q, n, at) + 1e-4  # a hundredth of eps_error: the numerics are monotone to that
        assert upper(factor * s, q, n, at) <= base
        assert upper(s, q / factor, n, at) <= base
        assert upper(s, q, math.ceil(n / factor), at) <= base
        assert upper(s, q, n, at * factor) <= base

    @pytest.mark.parametrize("eps_error", [0.1, 0.01, 0.001])
    def test_bracket_is_as_wide_as_asked(self, eps_error):
        got = bracket([self.event], DELTA, PRV(eps_error=eps_error))
        assert got.lower <= oracle_epsilon([self.event], DELTA) <= got.upper
        assert 2 * eps_error < got.upper - got.lower < 2 * eps_error + 0.002

    @pytest.mark.parametrize("bad", [0, -0.01, math.nan, math.inf])
    def test_refuses_eps_error(self, bad):
        with pytest.raises(ConfigurationError, match="eps_error"):
            PRV(eps_error=bad)

    def test_small_budgets_get_a_small_error(self):
        assert PRV.for_budget(0.1) == PRV(eps_error=0.001)
        assert PRV.for_budget(8.0) == PRV(eps_error=0.01)

    @pytest.mark.parametrize(
        ("event", "reason"),
        [
            (SampledGaussian(0.5, 0.5, 5000), "points|losses"),
            (SampledGaussian(1.0, 0.01, 10**9), "points|losses"),
            (SampledGaussian(0.01, 0.5), "losses"),
            (SampledGaussian(1e200, 0.5), "noise multiplier"),
        ],
    )
    def test_the_smaller_bound_serves_beyond_reach_and_says_so(self, event, reason):
        got = bracket([event], DELTA)
        by_dots, by_rdp = dots.upper_epsilon((event,), DELTA), epsilon([event], DELTA, "rdp")
        assert got == accountants.Bracket(0.0, min(by_dots, by_rdp), min(by_dots, by_rdp), got.note)
        assert got.note.startswith("connected dots serve" if by_dots < by_rdp else "RDP serves")
        assert any(word in got.note for word in reason.split("|"))

    def test_rdp_serves_beyond_the_reach_of_the_dots(self):
        for event in (SampledGaussian(0.01, 0.5), SampledGaussian(1e200, 0.5)):
            got = bracket([event], DELTA)
            assert got.upper == epsilon([event], DELTA, "rdp")
            assert got.note.startswith("RDP serves")

    def test_a_failed_cross_check_reports_the_larger(self, monkeypatch):
        honest = bracket([self.event], DELTA)
        monkeypatch.setattr(prv_module, "_microsoft", lambda *_: (5.5, 6.0, 6.5))
        prv_module._bracket.cache_clear()
        got = bracket([self.event], DELTA)
        prv_module._bracket.cache_clear()
        assert (got.lower, got.estimate, got.upper) == (honest.lower, 6.0, 6.5)
        assert "prv-accountant says 6" in got.note

    def test_a_cross_check_that_cannot_run_is_noted(self, monkeypatch):
        def broken(*_):
            raise RuntimeError

        honest = bracket([self.event], DELTA)
        monkeypatch.setattr(prv_module, "_microsoft", broken)
        prv_module._bracket.cache_clear()
        got = bracket([self.event], DELTA)
        prv_module._bracket.cache_clear()
        assert got.upper == honest.upper
        assert got.note == "not cross-checked: RuntimeError"

    def test_gaussians_beside_sampled_events(self):
        events = [SampledGaussian(10.0, 1.0, 4), SampledGaussian(20.0, 1.0, 9), SampledGaussian(2.0, 0.1, 50)]
        assert_brackets_the_oracle(events, DELTA)

    def test_a_gaussian_without_noise_beside_sampled_events(self):
        assert bracket([SampledGaussian(5e-324, 1.0), SampledGaussian(1.0, 0.1)], DELTA).upper == math.inf

    def test_delta_beyond_reach(self):
        event = SampledGaussian(1.0, 0.01, 100_000)
        got = delta([event], 25.0)
        assert got < 0.5 * delta([event], 25.0, "rdp")
        assert got == pytest.approx(dots.upper_delta((event,), 25.0))

    def test_equal_histories_are_computed_once(self):
        events = [SampledGaussian(1.7, 0.07, 11), SampledGaussian(3.1, 0.2, 2)]
        epsilon(events, DELTA)
        misses = prv_module._bracket.cache_info().misses
        epsilon([Composition(tuple(reversed(events)))], DELTA)
        assert prv_module._bracket.cache_info().misses == misses

    def test_delta_agrees_with_the_oracle(self):
        event = dp_accounting.PoissonSampledDpEvent(0.1, dp_accounting.GaussianDpEvent(1.0))
        expected = pld.PLDAccountant().compose(event, 50).get_delta(4.0)
        assert expected * 0.999 <= delta([self.event], 4.0) <= 1.05 * expected


class TestGDP(AccountantConformance):
    accountant = GDP()
    event = SampledGaussian(10.0, 1.0, 50)

    def test_refuses_sampled_events(self):
        with pytest.raises(ConfigurationError, match="sample_rate"):
            epsilon([SampledGaussian(1.0, 0.5)], DELTA, "gdp")

    @settings(deadline=None)
    @given(st.floats(0.01, 300.0), st.floats(-10.0, -0.5))
    def test_prv_delegates_to_it(self, sigma, exponent):
        events = [SampledGaussian(sigma, 1.0, 3), SampledGaussian(2 * sigma, 1.0)]
        assert bracket(events, 10**exponent, "prv") == bracket(events, 10**exponent, "gdp")

    @settings(deadline=None)
    @given(st.floats(-7.0, 3.0), st.floats(-8.0, -0.5))
    def test_inverts_to_nine_digits(self, log_mu, exponent):
        events = [SampledGaussian(10**-log_mu, 1.0)]
        got = bracket(events, 10**exponent, "gdp")
        if got.upper > 0:
            assert delta(events, got.estimate, "gdp") == pytest.approx(10**exponent, rel=1e-6)
            assert got.lower == pytest.approx(got.upper, rel=1e-8)
        else:
            assert delta(events, 0.0, "gdp") <= 10**exponent * (1 + 1e-6)


class TestRdpFilter:
    def schedule(self, budget, event):
        """How many releases of `event` the filter affords."""
        watch, done = RdpFilter(budget, DELTA), 0
        while watch.affords([SampledGaussian(event.noise_multiplier, event.sample_rate, done)] if done else [], event):
            done += 1
        return done

    @pytest.mark.parametrize(
        "event", [SampledGaussian(2.0, 0.1), SampledGaussian(10.0, 1.0), SampledGaussian(0.7, 0.02)]
    )
    @pytest.mark.parametrize("budget", [1.0, 8.0])
    def test_is_stricter_than_a_fixed_schedule_but_not_by_much(self, event, budget):
        done = self.schedule(budget, event)
        spent = epsilon([SampledGaussian(event.noise_multiplier, event.sample_rate, done)], DELTA, "rdp") if done else 0
        next_one = epsilon([SampledGaussian(event.noise_multiplier, event.sample_rate, done + 1)], DELTA, "rdp")
        assert spent <= budget
        assert next_one >= 0.8 * budget

    def test_orders_depend_on_the_budget_alone(self):
        watch = RdpFilter(8.0, DELTA)
        assert watch.orders == RdpFilter(8.0, DELTA).orders
        assert len(watch.orders) == 6
        assert all(order > 1 for order in watch.orders)
        assert all(1 < order <= 1024 for order in RdpFilter(1e-6, 1e-12).orders)

    def test_never_affords_what_has_no_guarantee(self):
        assert not RdpFilter(8.0, DELTA).affords([], NotPrivate())
        assert not RdpFilter(8.0, DELTA).affords([NotPrivate()], SampledGaussian(100.0, 0.01))
        assert RdpFilter(8.0, DELTA).affords([], SampledGaussian(100.0, 0.01))

    @pytest.mark.parametrize("bad", [(0, DELTA), (math.inf, DELTA), (math.nan, DELTA), (1.0, 0), (1.0, 1)])
    def test_refuses_bad_budgets(self, bad):
        with pytest.raises(ConfigurationError):
            RdpFilter(*bad)


class TestModule:
    def test_best_epsilon_is_the_smaller_valid_bound(self):
        for event in (SampledGaussian(1.0, 0.1, 50), SampledGaussian(0.5, 0.5, 5000), SampledGaussian(1e4, 0.01)):
            both = [epsilon([event], DELTA, name) for name in ("rdp", "prv")]
            assert best_epsilon(iter([event]), DELTA) == min(both)

    def test_refuses_unknown_accountants(self):
        with pytest.raises(ConfigurationError, match="accountant"):
            epsilon([], DELTA, "moments")

    def test_replace_one_is_never_mixed_in(self):
        assert SampledGaussian(1.0, 0.1).relation == NotPrivate().relation == "add or remove one"
        with pytest.raises(TypeError):
            SampledGaussian(1.0, 0.1, relation="replace one")  # type: ignore[call-arg]

    def test_import_without_torch(self):
        code = (
            "import sys; from private_distdd.privacy import accountants as a, calibration; "
            "from private_distdd.privacy.events import SampledGaussian as S; "
            "a.epsilon([S(1.0, .1, 5)], 1e-5, 'rdp'); a.epsilon([S(1.0, 1.0)], 1e-5, 'prv'); "
            "sys.exit('torch' in sys.modules or 'opacus' in sys.modules)"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
