"""Google's PLD accountant, a second opinion on every epsilon."""

from __future__ import annotations

import math
import warnings

from hypothesis import strategies as st

from private_distdd.privacy.accountants import bracket, epsilon
from private_distdd.privacy.events import SampledGaussian

with warnings.catch_warnings():  # those of the library, at its import, are not ours
    warnings.simplefilter("ignore")
    import dp_accounting
    from dp_accounting import pld


DELTA = 1e-5


PRIVATE_EVENT = st.builds(
    SampledGaussian,
    noise_multiplier=st.floats(0.8, 8.0),
    sample_rate=st.one_of(st.floats(-6.0, -0.05).map(math.exp), st.just(1.0)),
    count=st.integers(1, 60),
)


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
