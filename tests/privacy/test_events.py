"""Events: what they refuse, how they merge, and that what is stored is what is read."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from private_distdd.errors import ConfigurationError
from private_distdd.privacy.accountants import epsilon
from private_distdd.privacy.events import (
    MAX_COUNT,
    RELATION,
    UNIT,
    Composition,
    NotPrivate,
    SampledGaussian,
    event_from_json,
    event_to_json,
    merge,
)

SAMPLED = st.builds(
    SampledGaussian,
    noise_multiplier=st.floats(1e-3, 1e3),
    sample_rate=st.floats(1e-6, 1.0),
    count=st.integers(1, 10**6),
)
SIMPLE = SAMPLED | st.builds(NotPrivate, count=st.integers(1, 9))
EVENTS = st.recursive(SIMPLE, lambda inner: st.builds(Composition, st.lists(inner, min_size=1, max_size=4).map(tuple)))


class TestValidation:
    @pytest.mark.parametrize("sigma", [0, -1.0, math.nan, math.inf, "1", None, True, 1j])
    def test_noise_multiplier(self, sigma):
        with pytest.raises(ConfigurationError, match="noise_multiplier"):
            SampledGaussian(sigma, 0.1)

    @pytest.mark.parametrize("rate", [0, -0.1, 1.0001, math.nan, math.inf, "0.1", None, True])
    def test_sample_rate(self, rate):
        with pytest.raises(ConfigurationError, match="sample_rate"):
            SampledGaussian(1.0, rate)

    @pytest.mark.parametrize("count", [0, -1, 1.0, math.nan, "1", None, True, MAX_COUNT + 1, 10**18])
    @pytest.mark.parametrize("build", [lambda n: SampledGaussian(1.0, 0.1, n), NotPrivate])
    def test_count(self, count, build):
        with pytest.raises(ConfigurationError, match="count"):
            build(count)

    def test_a_count_that_cannot_be_printed(self):
        with pytest.raises(ConfigurationError, match="count = a number of over 30 digits"):
            NotPrivate(10**5000)

    def test_the_most_releases(self):
        assert SampledGaussian(1.0, 0.1, MAX_COUNT).count == NotPrivate(MAX_COUNT).count == MAX_COUNT
        assert int(float(MAX_COUNT)) == MAX_COUNT < 2**53

    @pytest.mark.parametrize("parts", [(), ("event",), (None,)])
    def test_composition(self, parts):
        with pytest.raises(ConfigurationError, match="events"):
            Composition(parts)

    def test_frozen_and_stated_for_one_unit_and_relation(self):
        for event in (SampledGaussian(1.0, 0.1), NotPrivate(), Composition((NotPrivate(),))):
            assert (event.unit, event.relation) == (UNIT, RELATION)
            with pytest.raises(FrozenInstanceError):
                event.count = 0  # type: ignore[misc, union-attr]

    def test_whole_numbers_become_floats(self):
        assert SampledGaussian(1, 1) == SampledGaussian(1.0, 1.0)
        assert isinstance(SampledGaussian(2, 1).noise_multiplier, float)

    @pytest.mark.parametrize("parts", [1, 4, 10])
    def test_parts_on_one_draw_of_coins_are_one_release_with_less_noise(self, parts):
        """K parts, each clipped to C, move the stacked sum by sqrt(K) C: noise of sigma C is then sigma / sqrt(K)."""
        sigma, rate, clip = 2.0, 0.1, 0.5
        row = np.full((parts, 3), clip / math.sqrt(3))  # the worst example: every part at its bound
        assert np.linalg.norm(row, axis=1) == pytest.approx([clip] * parts)
        sensitivity = np.linalg.norm(row)
        together = SampledGaussian(sigma * clip / sensitivity, rate)
        assert together.noise_multiplier == pytest.approx(sigma / math.sqrt(parts), rel=1e-12)
        assert together.count == 1
        # With every example in the batch that is as dear as a release for each part, and with secret coins, which are
        # then drawn once for all of them, it is dearer: one draw amplifies once.
        for q, dearer in ((1.0, False), (rate, parts > 1)):
            one = epsilon([SampledGaussian(sigma / math.sqrt(parts), q)], 1e-5, "rdp")
            each = epsilon([SampledGaussian(sigma, q, parts)], 1e-5, "rdp")
            assert one > each if dearer else one == pytest.approx(each, rel=1e-9)


class TestMerge:
    def test_adds_up_equal_mechanisms(self):
        events = [SampledGaussian(1.0, 0.1, 2), NotPrivate(), Composition((SampledGaussian(1.0, 0.1), NotPrivate(2)))]
        assert merge(events) == (SampledGaussian(1.0, 0.1, 3), NotPrivate(3))

    def test_nothing(self):
        assert merge([]) == ()

    @pytest.mark.parametrize("build", [lambda n: SampledGaussian(1.0, 0.1, n), NotPrivate])
    def test_refuses_more_releases_than_can_be_priced(self, build):
        half = MAX_COUNT // 2
        assert merge([build(half), Composition((build(half),))]) == (build(2 * half),)
        with pytest.raises(ConfigurationError, match="count"):
            merge([build(MAX_COUNT), build(1)])
        other = SampledGaussian(2.0, 0.1, MAX_COUNT)  # different mechanisms do not add up
        assert len(merge([build(MAX_COUNT), other])) == 2

    @given(st.lists(EVENTS, max_size=5), st.randoms(use_true_random=False))
    def test_ignores_order_and_nesting_and_is_idempotent(self, events, random):
        shuffled = list(events)
        random.shuffle(shuffled)
        assert merge(shuffled) == merge(events) == merge(merge(events))
        if events:
            assert merge([Composition(tuple(events))]) == merge(events)

    @given(st.lists(SAMPLED, max_size=5))
    def test_loses_no_release(self, events):
        assert sum(event.count for event in merge(events)) == sum(event.count for event in events)


class TestJson:
    @given(EVENTS)
    def test_round_trip(self, event):
        assert event_from_json(json.loads(json.dumps(event_to_json(event)))) == event

    def test_the_stored_form_is_a_promise(self):
        assert event_to_json(Composition((SampledGaussian(1.5, 0.25, 3), NotPrivate(2)))) == {
            "kind": "composition",
            "events": [
                {"kind": "sampled_gaussian", "noise_multiplier": 1.5, "sample_rate": 0.25, "count": 3},
                {"kind": "not_private", "count": 2},
            ],
        }

    @pytest.mark.parametrize(
        "record",
        [
            None,
            [],
            {},
            {"kind": "laplace"},
            {"kind": ["not_private"], "count": 1},
            {"kind": "not_private"},
            {"kind": "not_private", "count": 0},
            {"kind": "not_private", "count": 1, "epsilon": 0},
            {"kind": "sampled_gaussian", "noise_multiplier": 1.0, "sample_rate": 0.1},
            {"kind": "sampled_gaussian", "noise_multiplier": math.nan, "sample_rate": 0.1, "count": 1},
            {"kind": "composition", "events": []},
            {"kind": "composition", "events": {"kind": "not_private", "count": 1}},
            {"kind": "composition", "events": [{"kind": "replace_one_gaussian"}]},
        ],
    )
    def test_refuses(self, record):
        with pytest.raises(ConfigurationError):
            event_from_json(record)
