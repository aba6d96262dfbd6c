"""Bounded work, whatever is asked to be priced."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from private_distdd.privacy.accountants import bracket, dots, epsilon
from private_distdd.privacy.accountants import prv as prv_module
from private_distdd.privacy.accountants.base import MAX_DISTINCT, coarsened
from private_distdd.privacy.accountants.rdp import renyi_divergences
from private_distdd.privacy.events import SampledGaussian

with warnings.catch_warnings():  # those of the library, at its import, are not ours
    warnings.simplefilter("ignore")
from oracle import DELTA


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
