"""Norms of noised messages: honest ones are within, as rarely outside as is said, and no closer bound would do."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from faults import PLAN

from private_distdd.limits import EXAMPLES
from private_distdd.privacy.mechanism import SampledGaussianMechanism
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.privacy.randomness import SystemRandomness
from private_distdd.server import norms
from private_distdd.server.norms import honest_norms
from private_distdd.wire.packing import FORMATS, Packing

MESSAGES = 4000
forms = pytest.mark.parametrize("form", FORMATS)


def short(monkeypatch: pytest.MonkeyPatch, plan: PrivacyPlan, form: str, shift: float, dimension: int = 500) -> float:
    """How many messages of one group are too short, of those whose law has a tail of .1 there."""
    monkeypatch.setattr(norms, "RARE", 0.4)
    honest_norms.cache_clear()
    packing, unit = Packing.of(form, plan), plan.noise_multiplier * plan.max_grad_norm / plan.divisor
    least, most = honest_norms(plan, packing, 1, dimension)
    honest_norms.cache_clear()
    drawn = torch.from_numpy(np.random.default_rng(0).normal(shift, 1, (MESSAGES, dimension)) * unit).float()
    sent = drawn if packing is None else packing.unpack(packing.pack(drawn), dimension)
    lengths = torch.linalg.vector_norm(sent, dim=1, dtype=torch.float64)
    assert float(lengths.max()) < most
    return float((lengths < least).double().mean())


@forms
def test_pure_noise_is_the_shortest_and_as_seldom_outside_as_is_said(
    monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    tail = short(monkeypatch, PLAN, form, 0.0)
    assert tail < 0.1 + 4 * math.sqrt(0.09 / MESSAGES)
    assert tail > (0.07 if form.startswith("float") else -1)  # no closer bound would do; coarse packings allow more
    assert short(monkeypatch, PLAN, form, 0.3) < 0.5 * tail + 1e-9  # whatever is added makes it no shorter


def test_noise_below_the_lattice_leaves_nothing_to_ask_for() -> None:
    assert honest_norms(dataclasses.replace(PLAN, noise_multiplier=1e-6), None, 1, 500)[0] > 0
    assert honest_norms(dataclasses.replace(PLAN, noise_multiplier=1e-7), None, 1, 500)[0] == 0


@pytest.mark.parametrize("sigma", [1e-7, 1e-3, 1.0, 2.0**20])
@pytest.mark.parametrize(("norm", "divisor"), [(1.0, 1.0), (1e-3, 256.0), (1e10, 1e-5)])
@forms
def test_what_the_mechanism_gives_is_within(sigma: float, norm: float, divisor: float, form: str) -> None:
    plan = PrivacyPlan(sigma, 1.0, norm, divisor, 1, 1e-5)
    mechanism, packing = SampledGaussianMechanism(sigma, 1.0, norm, divisor), Packing.of(form, plan)
    for examples in (0, 300):
        rows = torch.zeros(examples, 200)
        rows[:, 0] = norm
        measurement = mechanism.begin(examples, 2, 200, SystemRandomness())
        measurement.add(rows, torch.zeros(examples, dtype=torch.int64))
        sent = measurement.message()
        sent = sent if packing is None else packing.unpack(packing.pack(sent), 200)
        least, most = honest_norms(plan, packing, 2, 200)
        lengths = torch.linalg.vector_norm(sent, dim=1, dtype=torch.float64)
        assert bool(((least <= lengths) & (lengths <= most)).all())


def test_what_is_short_or_long_is_seen() -> None:
    """Zeros, and what lacks noise; and more than all the examples that a client may hold."""
    least, most = honest_norms(PLAN, None, 3, 1000)
    unit = PLAN.noise_multiplier * PLAN.max_grad_norm / PLAN.divisor
    assert 0.7 * unit * math.sqrt(1000) < least < unit * math.sqrt(1000)
    signal = EXAMPLES * PLAN.max_grad_norm / PLAN.divisor
    assert signal < most < 1.001 * signal
    twice = dataclasses.replace(PLAN, events_per_query=4)
    assert honest_norms(twice, None, 3, 1000)[1] == pytest.approx(2 * most, rel=1e-6)
