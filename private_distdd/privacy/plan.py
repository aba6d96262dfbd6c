"""What the user asks for (`Privacy`) and the public constants that every client pins for a run (`PrivacyPlan`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import InitVar, asdict, dataclass, fields
from typing import Any

from private_distdd.errors import ConfigurationError
from private_distdd.privacy.accountants import best_epsilon
from private_distdd.privacy.calibration import calibrate_noise_multiplier
from private_distdd.privacy.events import MAX_COUNT, SampledGaussian
from private_distdd.privacy.grade import LARGE_DELTA
from private_distdd.validate import require_count, require_flag, require_number

MOST_NOISE = 2.0**20  # the largest noise multiplier
_MOST_EVENTS = 10**6  # of one query


@dataclass(frozen=True)
class PrivacyPlan:
    """The public constants of one run's mechanism, equal for all clients; each client pins them and refuses others.

    Args:
        noise_multiplier: sigma in (0, 2^20].
        sample_rate: q in (0, 1].
        max_grad_norm: C in [1e-30, 1e30].
        divisor: b in [1e-30, 1e30], public.
        max_queries: T_max, 1 ... 10^15 / `events_per_query`; query T_max + 1 is refused.
        delta: in (0, 1); the delta at which epsilon is claimed.
        events_per_query: 1 ... 10^6; measurements that an answered query takes, each on coins of its own.

    Raises:
        ConfigurationError: a value is outside its range.
    """

    noise_multiplier: float
    sample_rate: float
    max_grad_norm: float
    divisor: float
    max_queries: int
    delta: float
    events_per_query: int = 1

    def __post_init__(self) -> None:
        require_number(
            "noise_multiplier",
            self.noise_multiplier,
            0,
            math.nextafter(MOST_NOISE, math.inf),
            "0 < noise_multiplier <= 2^20",
            "Give the noise's standard deviation divided by max_grad_norm.",
        )
        _check_shape(self.sample_rate, self.max_grad_norm, self.divisor, self.delta)
        require_count("events_per_query", self.events_per_query, "1 is usual.", at_most=_MOST_EVENTS)
        most = MAX_COUNT // self.events_per_query  # beyond it a schedule has no price
        require_count("max_queries", self.max_queries, "Plan at least one query.", at_most=most)
        require_number(
            "noise_multiplier * max_grad_norm / divisor",
            self.noise_multiplier * self.max_grad_norm / self.divisor,
            1e-34,
            1e30,
            "1e-34 ... 1e30",
            "Messages are float32: bring max_grad_norm and divisor nearer to 1.",
        )

    @property
    def event(self) -> SampledGaussian:
        """What one answered query costs."""
        return SampledGaussian(self.noise_multiplier, self.sample_rate, self.events_per_query)

    @property
    def schedule(self) -> SampledGaussian:
        """What all T_max queries cost together: the claim of a run, however early it stops."""
        count = self.max_queries * self.events_per_query
        return SampledGaussian(self.noise_multiplier, self.sample_rate, count)

    @property
    def epsilon(self) -> float:
        """The claimed epsilon(T_max) at `delta`: the smaller valid upper bound of the accountants."""
        return self.epsilon_after(self.max_queries)

    def epsilon_after(self, queries: int) -> float:
        """What the first `queries` >= 0 of them cost at `delta`, by the rule of the claim."""
        count = queries * self.events_per_query
        schedule = [SampledGaussian(self.noise_multiplier, self.sample_rate, count)] if count else []
        return best_epsilon(schedule, self.delta)

    def to_json(self) -> dict[str, Any]:
        """A JSON object; `from_json` is the inverse.

        The usual one event a query is left out: what clients pinned before there were others stays what they pinned.
        """
        record = asdict(self)
        if self.events_per_query == 1:
            del record["events_per_query"]
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> PrivacyPlan:
        """The plan that `to_json` wrote.

        Raises:
            ConfigurationError: fields are missing or unknown, or a value is out of range.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(record, Mapping) or set(record) | {"events_per_query"} != names:
            raise ConfigurationError(f"plan {record!r}", f"the fields {sorted(names)}", "Use PrivacyPlan.to_json.")
        plan = cls(**record)
        if "events_per_query" in record and plan.events_per_query == 1:  # one plan, one way to write it
            raise ConfigurationError(
                f"plan {record!r}", "no events_per_query where it is 1", "Use PrivacyPlan.to_json."
            )
        return plan


@dataclass(frozen=True)
class Privacy:
    """Differential privacy for every client's messages: unit one labelled example, relation add or remove.

    Exactly one of `target_epsilon` and `noise_multiplier` is given; the other follows from the number of queries.

    Args:
        target_epsilon: the whole run's epsilon per client, > 0; sigma is calibrated for the planned queries.
        noise_multiplier: sigma in (0, 2^20]: noise standard deviation over `max_grad_norm`, on each message.
        delta: in (0, 1e-3]; choose it well below 1 / (number of examples a client holds).
        sample_rate: q in (0, 1]: each example enters each batch by its own secret coin of this probability.
        max_grad_norm: C in [1e-30, 1e30]: L2 bound on one example's gradient over all parameters together.
        divisor: b in [1e-30, 1e30]: public number that every message is divided by; equal for all clients.
        allow_large_delta: take a delta above 1e-3, too: the card then says that this is hardly any privacy.

    Replace-one would cost more (a change moves a sum by up to 2 C) and need other accountants; it cannot be asked for.

    Raises:
        ConfigurationError: a value is outside its range, or both or neither of the first two are given.

    Formal guarantee: see docs/theorem.md; every message a client sends, and everything computed from them, is
    (epsilon, delta)-DP for adding or removing one example of that client, epsilon as charged to its ledger.
    """

    target_epsilon: float | None = None
    noise_multiplier: float | None = None
    delta: float = 1e-5
    sample_rate: float = 1.0
    max_grad_norm: float = 1.0
    divisor: float = 1.0
    allow_large_delta: InitVar[bool] = False  # no field: it is no constant of any run

    def __post_init__(self, allow_large_delta: bool) -> None:
        if (self.target_epsilon is None) == (self.noise_multiplier is None):
            raise ConfigurationError(
                f"target_epsilon = {self.target_epsilon!r} and noise_multiplier = {self.noise_multiplier!r}",
                "exactly one of the two",
                "Give target_epsilon to have the noise calibrated, or noise_multiplier to have epsilon computed.",
            )
        if self.target_epsilon is not None:
            require_number(
                "target_epsilon", self.target_epsilon, 0, math.inf, "a finite number > 0", "1 to 10 is usual."
            )
            _check_shape(self.sample_rate, self.max_grad_norm, self.divisor, self.delta)
        elif self.noise_multiplier is not None:
            # The plan's own checks, on the values as given: `plan` would make a float of "1" or True first.
            PrivacyPlan(self.noise_multiplier, self.sample_rate, self.max_grad_norm, self.divisor, 1, self.delta)
        if self.delta > LARGE_DELTA and not require_flag("allow_large_delta", allow_large_delta):
            raise ConfigurationError(
                f"delta = {self.delta!r}, a chance of {self.delta:.1%} that an example is laid open",
                f"delta <= {LARGE_DELTA:g}",
                "Choose it well below 1 / examples of a client: 1e-5 is usual. allow_large_delta=True takes it all the "
                "same.",
            )

    def plan(self, max_queries: int, events_per_query: int = 1) -> PrivacyPlan:
        """The public constants for at most `max_queries` queries to each client (T_max >= 1).

        Args:
            max_queries: T_max.
            events_per_query: see `PrivacyPlan`; what a question says it takes.

        Raises:
            ConfigurationError: the target cannot be reached with any sigma allowed.
        """
        sigma = self.noise_multiplier
        if sigma is None:
            assert self.target_epsilon is not None  # noqa: S101 - __post_init__ guards it; this tells the type checker
            require_count("max_queries", max_queries, "Plan at least one query.")
            require_count("events_per_query", events_per_query, "1 is usual.", at_most=_MOST_EVENTS)
            events = max_queries * events_per_query
            sigma = calibrate_noise_multiplier(self.target_epsilon, self.delta, self.sample_rate, events)
            if sigma > MOST_NOISE:
                raise ConfigurationError(
                    f"target_epsilon = {self.target_epsilon!r} for {events} releases, delta = {self.delta!r}, "
                    f"sample_rate = {self.sample_rate!r}",
                    "a target within reach of a noise multiplier of 2^20",
                    "Raise target_epsilon, or plan fewer rounds or a smaller sample_rate.",
                )
        return PrivacyPlan(
            float(sigma),
            float(self.sample_rate),
            float(self.max_grad_norm),
            float(self.divisor),
            max_queries,
            float(self.delta),
            events_per_query,
        )


def _check_shape(sample_rate: object, max_grad_norm: object, divisor: object, delta: object) -> None:
    above_one = math.nextafter(1.0, 2.0)
    require_number("sample_rate", sample_rate, 0, above_one, "0 < sample_rate <= 1", "1 means every example.")
    # Far inside float64 and float32: no scale can overflow, underflow or wrap the lattice.
    low, high = math.nextafter(1e-30, 0), math.nextafter(1e30, math.inf)
    require_number("max_grad_norm", max_grad_norm, low, high, "1e-30 ... 1e30", "0.1 to 10 is usual.")
    require_number("divisor", divisor, low, high, "1e-30 ... 1e30", "1 sends the sum itself.")
    require_number("delta", delta, 0, 1, "0 < delta < 1", "1e-5 is usual; stay below 1 / examples of a client.")
