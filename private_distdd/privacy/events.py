"""What one release costs, as frozen values that the ledger stores and the accountants read.

Compatibility promise: an event never changes its meaning.  A stored `kind` with its fields will always denote the
mechanism described here; a new mechanism gets a new `kind`.

Every event is stated for one unit and one relation: two federations are neighbours when they differ by adding or
removing one labelled example of one client.  Replace-one, client-level or fixed-batch costs are other numbers and have
no event here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from private_distdd.errors import ConfigurationError

UNIT = "one labelled example of one client"
RELATION = "add or remove one"

# The most releases that one history may have of one mechanism.  No ledger comes near it (a thousand a second for thirty
# thousand years), and up to it the accountants' arithmetic is shown to hold: every count is an exact float64.
MAX_COUNT = 10**15


def _check_count(count: object) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_COUNT:
        shown = f"{count!r}" if not isinstance(count, int) or abs(count) <= 10**30 else "a number of over 30 digits"
        raise ConfigurationError(
            f"count = {shown}", f"a whole number from 1 to {MAX_COUNT:.0e}", "Count the releases made."
        )


@dataclass(frozen=True, order=True)
class SampledGaussian:
    """`count` independent releases of the Poisson-subsampled Gaussian mechanism (with sample_rate 1: the Gaussian).

    One release draws each example into the batch by its own fresh secret coin of probability `sample_rate` and adds
    N(0, (noise_multiplier * sensitivity)^2 I) to a sum that one example moves by at most `sensitivity` in L2 norm.

    Args:
        noise_multiplier: sigma, finite and > 0; the noise's standard deviation divided by the L2 sensitivity.
        sample_rate: q in (0, 1].
        count: number of independent releases, from 1 to `MAX_COUNT`.

    Raises:
        ConfigurationError: an argument is outside its range.

    Source: Abadi et al. 2016; Mironov, Talwar and Zhang 2019; dominating pair: Zhu, Dong and Wang 2022.
    """

    noise_multiplier: float
    sample_rate: float
    count: int = 1

    kind: ClassVar[str] = "sampled_gaussian"
    unit: ClassVar[str] = UNIT
    relation: ClassVar[str] = RELATION

    def __post_init__(self) -> None:
        sigma, rate = self.noise_multiplier, self.sample_rate
        if not (_is_real(sigma) and 0 < sigma <= sys.float_info.max):
            raise ConfigurationError(
                f"noise_multiplier = {sigma!r}", "a finite number > 0", "Without noise, charge a NotPrivate event."
            )
        if not (_is_real(rate) and 0 < rate <= 1):
            raise ConfigurationError(f"sample_rate = {rate!r}", "0 < sample_rate <= 1", "1 means every example.")
        _check_count(self.count)
        object.__setattr__(self, "noise_multiplier", float(sigma))
        object.__setattr__(self, "sample_rate", float(rate))


@dataclass(frozen=True, order=True)
class NotPrivate:
    """`count` releases without any guarantee (no noise, or noise from an insecure source): epsilon is infinite.

    Args:
        count: from 1 to `MAX_COUNT`.

    Raises:
        ConfigurationError: the count is outside its range.
    """

    count: int = 1

    kind: ClassVar[str] = "not_private"
    unit: ClassVar[str] = UNIT
    relation: ClassVar[str] = RELATION

    def __post_init__(self) -> None:
        _check_count(self.count)


@dataclass(frozen=True)
class Composition:
    """Several events that one message costs together (FedDGM's local DP-SGD steps, for example).

    Args:
        events: at least one event; nesting is allowed.
    """

    events: tuple[Event, ...]

    kind: ClassVar[str] = "composition"
    unit: ClassVar[str] = UNIT
    relation: ClassVar[str] = RELATION

    def __post_init__(self) -> None:
        object.__setattr__(self, "events", tuple(self.events))
        if not self.events or not all(isinstance(e, SampledGaussian | NotPrivate | Composition) for e in self.events):
            raise ConfigurationError(f"events = {self.events!r}", "at least one event", "Pass a tuple of events.")


Event: TypeAlias = SampledGaussian | NotPrivate | Composition
SimpleEvent: TypeAlias = SampledGaussian | NotPrivate


def _is_real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def merge(events: Iterable[Event]) -> tuple[SimpleEvent, ...]:
    """The same cost in canonical form: flat, equal mechanisms added up, sorted.  Composition does not see order.

    Raises:
        ConfigurationError: something is no event, or equal mechanisms add up to more than `MAX_COUNT` releases.
    """
    rates: dict[tuple[float, float], int] = {}
    open_releases = 0
    pending = list(events)
    while pending:
        event = pending.pop()
        match event:
            case Composition(events=parts):
                pending.extend(parts)
            case NotPrivate(count=count):
                open_releases += count
            case SampledGaussian(noise_multiplier=sigma, sample_rate=rate, count=count):
                rates[sigma, rate] = rates.get((sigma, rate), 0) + count
            case _:  # an unknown thing must not cost nothing
                raise ConfigurationError(f"event {event!r}", "events of this module", "Say what the release costs.")
    merged: list[SimpleEvent] = [SampledGaussian(s, q, n) for (s, q), n in sorted(rates.items())]
    return tuple(merged) + ((NotPrivate(open_releases),) if open_releases else ())


def event_to_json(event: Event) -> dict[str, Any]:
    """The event as a JSON object; `event_from_json` is its inverse."""
    match event:
        case Composition(events=parts):
            return {"kind": event.kind, "events": [event_to_json(part) for part in parts]}
        case NotPrivate(count=count):
            return {"kind": event.kind, "count": count}
        case SampledGaussian(noise_multiplier=sigma, sample_rate=rate, count=count):
            return {"kind": event.kind, "noise_multiplier": sigma, "sample_rate": rate, "count": count}


def event_from_json(record: Mapping[str, Any]) -> Event:
    """The event that `event_to_json` wrote.

    Raises:
        ConfigurationError: unknown kind, missing or unknown fields, or a value out of range.
    """
    fields = {
        SampledGaussian.kind: {"noise_multiplier", "sample_rate", "count"},
        NotPrivate.kind: {"count"},
        Composition.kind: {"events"},
    }
    kind = record.get("kind") if isinstance(record, Mapping) else None
    if not isinstance(kind, str) or kind not in fields or set(record) - {"kind"} != fields[kind]:
        raise ConfigurationError(
            f"event {record!r}", f"kinds and fields {fields}", "Was it written by a newer version? Upgrade to read it."
        )
    values = {name: value for name, value in record.items() if name != "kind"}
    if kind == SampledGaussian.kind:
        return SampledGaussian(**values)
    if kind == NotPrivate.kind:
        return NotPrivate(**values)
    if not isinstance(values["events"], list):
        raise ConfigurationError(f"event {record!r}", "a list of events", "The record is damaged.")
    return Composition(tuple(event_from_json(part) for part in values["events"]))
