"""Accountants against an independent oracle."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from private_distdd.privacy.accountants import epsilon
from private_distdd.privacy.accountants.gdp import gaussian_epsilon
from private_distdd.privacy.accountants.loss import AddLoss, RemoveLoss
from private_distdd.privacy.accountants.rdp import ORDERS, renyi_divergences
from private_distdd.privacy.events import MAX_COUNT, SampledGaussian

with warnings.catch_warnings():  # those of the library, at its import, are not ours
    warnings.simplefilter("ignore")
    import opacus.accountants
from oracle import DELTA, DELTAS, PRIVATE_EVENT, assert_brackets_the_oracle


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
