"""What all accountants have in common, and what is each one's own."""

from __future__ import annotations

import math
import warnings
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from private_distdd.errors import ConfigurationError
from private_distdd.privacy import accountants
from private_distdd.privacy.accountants import GDP, PRV, RDP, bracket, delta, dots, epsilon
from private_distdd.privacy.accountants import prv as prv_module
from private_distdd.privacy.events import MAX_COUNT, Composition, NotPrivate, SampledGaussian

with warnings.catch_warnings():  # those of the library, at its import, are not ours
    warnings.simplefilter("ignore")
    import dp_accounting
    from dp_accounting import pld
from oracle import DELTA, DELTAS, PRIVATE_EVENT, assert_brackets_the_oracle, oracle_epsilon

SAMPLED_EVENT = PRIVATE_EVENT.filter(lambda event: event.sample_rate < 1)


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
