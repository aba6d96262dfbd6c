"""Golden values of every accountant, and what the module promises."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings

import pytest
from scipy.stats import norm

from private_distdd.errors import ConfigurationError
from private_distdd.privacy.accountants import PRV, best_epsilon, bracket, epsilon
from private_distdd.privacy.accountants import prv as prv_module
from private_distdd.privacy.events import NotPrivate, SampledGaussian

with warnings.catch_warnings():  # those of the library, at its import, are not ours
    warnings.simplefilter("ignore")
    import opacus.accountants
from oracle import DELTA

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
