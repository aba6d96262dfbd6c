"""The RDP filter."""

from __future__ import annotations

import math
import warnings

import pytest

from private_distdd.errors import ConfigurationError
from private_distdd.privacy.accountants import RdpFilter, epsilon
from private_distdd.privacy.events import NotPrivate, SampledGaussian

with warnings.catch_warnings():  # those of the library, at its import, are not ours
    warnings.simplefilter("ignore")
from oracle import DELTA


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
