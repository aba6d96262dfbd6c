"""The questions a planner asks, answered with the number that a client's budget will be checked against.

All of them use PRV's upper bound, in the worse of both directions, with the error that `PRV.for_budget` sets: what is
planned here is what a client accepts.  Renyi divergences find the neighbourhood, PRV settles the answer, and the answer
itself is verified with the cross-check on before it is returned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
from scipy.optimize import brentq

from private_distdd.errors import ConfigurationError
from private_distdd.privacy.accountants import GDP, PRV, RDP, Accountant, AccountantName, epsilon
from private_distdd.privacy.accountants.base import canonical, check_delta, check_positive
from private_distdd.privacy.accountants.gdp import log_delta
from private_distdd.privacy.accountants.rdp import composed, conversion, renyi_divergences
from private_distdd.privacy.events import Event, SampledGaussian

TOLERANCE = 1e-3  # relative, of a calibrated noise multiplier or sample rate
MOST_QUERIES = 10**9  # no schedule is longer


def calibrate_noise_multiplier(target_epsilon: float, delta: float, sample_rate: float, queries: int) -> float:
    """The smallest noise multiplier at which `queries` releases cost at most `target_epsilon` at `delta`.

    Args:
        target_epsilon: finite, > 0.
        delta: in (0, 1).
        sample_rate: in (0, 1]; at 1 the closed form is used.
        queries: releases of one client, at least 1.

    Returns:
        sigma, at most 0.1 % above the smallest (1e-8 with sample_rate 1).

    Raises:
        ConfigurationError: an argument is outside its range, or no noise reaches the target.

    Formal guarantee: `epsilon([SampledGaussian(sigma, sample_rate, queries)], delta,
    PRV.for_budget(target_epsilon)) <= target_epsilon`: the very check is made before sigma is returned.
    """
    target, delta = check_positive("target_epsilon", target_epsilon), check_delta(delta)
    SampledGaussian(1.0, sample_rate, queries)  # validates

    def cost(accountant: Accountant) -> Callable[[float], float]:
        return lambda sigma: epsilon([SampledGaussian(sigma, sample_rate, queries)], delta, accountant)

    if sample_rate == 1:
        sigma, checked = math.sqrt(queries) / _largest_mu(target, delta), cost(GDP())
        step = 1 + 1e-9
    else:
        limit = sample_rate * math.sqrt(queries) / _largest_mu(target, delta)  # of many sampled releases: a guess
        rough = _edge(cost(RDP()), target, start=limit, cheaper=2.0, tolerance=0.02)
        found = _edge(cost(PRV.for_budget(target, cross_check=False)), target, start=rough or limit, cheaper=1.15)
        if found is None:
            raise _unreachable(target, delta)
        sigma, checked = found, cost(PRV.for_budget(target))
        step = 1 + TOLERANCE / 2
    while checked(sigma) > target:  # a last rounding, or a cross-check that asks for more
        sigma *= step
    return sigma


def largest_sample_rate(noise_multiplier: float, epsilon: float, delta: float, queries: int) -> float:
    """The largest sample rate at which `queries` releases cost at most `epsilon` at `delta`.

    Args:
        noise_multiplier: > 0.
        epsilon: finite, > 0.
        delta: in (0, 1).
        queries: at least 1.

    Returns:
        q in (0, 1], at most 0.1 % below the largest.

    Raises:
        ConfigurationError: an argument is outside its range, or no rate is small enough.
    """
    target, delta = check_positive("epsilon", epsilon), check_delta(delta)
    SampledGaussian(noise_multiplier, 1.0, queries)  # validates

    def cost(accountant: Accountant) -> Callable[[float], float]:
        def of_rate(rate: float) -> float:
            event = SampledGaussian(noise_multiplier, min(1.0, rate), queries)
            return accountant.bracket([event], delta).upper

        return of_rate

    checked = cost(PRV.for_budget(target))
    if checked(1.0) <= target:
        return 1.0
    limit = min(0.5, noise_multiplier * _largest_mu(target, delta) / math.sqrt(queries))  # as above, for the rate
    rough = _edge(cost(RDP()), target, start=limit, cheaper=0.5, tolerance=0.02)
    rate = _edge(cost(PRV.for_budget(target, cross_check=False)), target, start=rough or limit, cheaper=0.87)
    if rate is None:
        raise _unreachable(target, delta)
    while checked(rate) > target:
        rate /= 1 + TOLERANCE / 2
    return rate


def affordable_queries(
    noise_multiplier: float, epsilon: float, delta: float, sample_rate: float, spent: Iterable[Event] = ()
) -> int:
    """How many releases, after those of `spent`, keep the whole history at or below `epsilon` at `delta`.

    Args:
        noise_multiplier: > 0.
        epsilon: finite, > 0.
        delta: in (0, 1).
        sample_rate: in (0, 1].
        spent: what the client has released already.

    Returns:
        0 where not even one more fits; at most 10^9.

    Raises:
        ConfigurationError: an argument is outside its range.
    """
    target, delta = check_positive("epsilon", epsilon), check_delta(delta)
    one = SampledGaussian(noise_multiplier, sample_rate)
    history = canonical(spent)
    if history is None:
        return 0

    def cost(queries: int, accountant: PRV) -> float:
        event = SampledGaussian(one.noise_multiplier, one.sample_rate, queries)
        return accountant.bracket([*history, event], delta).upper

    search = PRV.for_budget(target, cross_check=False)
    with np.errstate(all="ignore"):
        room = target - conversion(delta) - composed(history)
        by_rdp = np.max(np.nan_to_num(room / renyi_divergences(one.noise_multiplier, one.sample_rate)))
    trial = int(min(max(float(by_rdp), 1.0), MOST_QUERIES))  # at least affordable by RDP: PRV allows a little more
    affordable, unaffordable = 0, MOST_QUERIES + 1
    stride = 1.1
    while unaffordable - affordable > 1:
        spends = cost(trial, search)
        if spends <= target:
            affordable = trial
        else:
            unaffordable = trial
        # Epsilon grows about like a power of the count: from either side, aim at the target, and past it.
        if affordable and unaffordable <= MOST_QUERIES:
            trial = _between(affordable, unaffordable, lambda n: cost(n, search), target)
        else:
            trial = math.ceil(trial * stride) if spends <= target else math.floor(trial / stride)
            stride *= stride
            trial = min(max(trial, affordable + 1), unaffordable - 1)
    checker = PRV.for_budget(target)
    while affordable and cost(affordable, checker) > target:
        affordable -= 1
    return affordable


def epsilon_after_each_query(
    noise_multiplier: float,
    sample_rate: float,
    delta: float,
    queries: int,
    spent: Iterable[Event] = (),
    accountant: AccountantName | Accountant = "rdp",
) -> list[float]:
    """The upper bound on epsilon at `delta` after `spent` and each of the next `queries` releases; `queries` numbers.

    RDP answers 500 of them in milliseconds; PRV takes some 0.1 s for each.

    Raises:
        ConfigurationError: an argument is outside its range.
    """
    SampledGaussian(noise_multiplier, sample_rate, queries)  # validates
    history = list(spent)
    return [
        epsilon([*history, SampledGaussian(noise_multiplier, sample_rate, done)], delta, accountant)
        for done in range(1, queries + 1)
    ]


def _unreachable(target: float, delta: float) -> ConfigurationError:
    return ConfigurationError(
        f"epsilon = {target!r} at delta = {delta!r}",
        "a target that the accountants can certify",
        "Neither more noise nor a smaller sample rate proves so small an epsilon: raise epsilon or delta.",
    )


def _largest_mu(target: float, delta: float) -> float:
    """The mu at which a Gaussian release is exactly (target, delta)-private; delta grows with mu."""

    def excess(log_mu: float) -> float:
        mu = math.exp(log_mu)
        return max(-1e300, log_delta(mu, target / mu - mu / 2)) - math.log(delta)

    low, high = 0.0, 0.0
    while excess(low) > 0:
        low -= 1.0
    while excess(high) <= 0:
        high += 1.0
    return math.exp(brentq(excess, low, high, xtol=1e-12, rtol=1e-12))


def _edge(
    cost: Callable[[float], float], target: float, start: float, cheaper: float, tolerance: float = TOLERANCE
) -> float | None:
    """An x with cost(x) <= target, within a relative `tolerance` of one that costs more; None where none is found.

    `cheaper` is a factor (below or above 1) that moves x to lower cost; cost is monotone in x.
    """

    def excess(x: float) -> float:
        return math.log(max(cost(x) / target, 1e-9))

    ends: dict[bool, tuple[float, float]] = {}  # affordable? -> (log x, excess)
    position, stride = math.log(start), math.log(cheaper)
    while len(ends) < 2:
        value = excess(math.exp(position))
        ends[value <= 0] = (position, value)
        position += stride if value > 0 else -stride
        stride *= 1.5
        if abs(position) > 60:
            return None
    steps = 0
    while abs(ends[True][0] - ends[False][0]) > tolerance:
        (good, under), (bad, over) = ends[True], ends[False]
        share = under / (under - over) if steps % 3 < 2 and math.isfinite(over) else 0.5
        # log cost is nearly linear in log x, so the root is nearly known.  Trying it would move the near end only: try
        # just past it, to move the far one.
        share += math.copysign(0.4 * tolerance / abs(bad - good), 0.5 - share)
        position = good + min(max(share, 0.02), 0.98) * (bad - good)
        value = excess(math.exp(position))
        ends[value <= 0] = (position, value)
        steps += 1
    return math.exp(ends[True][0])


def _between(affordable: int, unaffordable: int, cost: Callable[[int], float], target: float) -> int:
    """A count strictly between, next to where log cost, taken as linear in log count, meets the target."""
    low, high = math.log(affordable), math.log(unaffordable)
    under, over = math.log(max(cost(affordable) / target, 1e-9)), math.log(cost(unaffordable) / target)
    share = under / (under - over) if math.isfinite(over) and over > under else 0.5
    trial = round(math.exp(low + share * (high - low)))
    trial += 1 if trial - affordable < unaffordable - trial else -1  # past the root, to move the far end
    return min(max(trial, affordable + 1), unaffordable - 1)
