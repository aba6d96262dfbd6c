"""What a run's checkpoints look like: whatever else lies in a folder, nobody is asked for it."""

from __future__ import annotations

import dataclasses
import math
import reprlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.server.state import Checkpoint
from private_distdd.wire.run import Run


class Field(NamedTuple):
    """What one value of a checkpoint's progress must be.

    Args:
        allowed: in words.
        test: from the value and all of progress; it may rely on the fields declared before its own.
    """

    allowed: str
    test: Callable[[Any, Mapping[str, Any]], bool]


def _is_traffic(value: Any, progress: Mapping[str, Any]) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == progress["answered"].keys()
        and all(isinstance(pair, list) and len(pair) == 2 for pair in value.values())
        and all(is_between(count, 0, _BYTES) for pair in value.values() for count in pair)
    )


_BYTES = 1 << 62  # that a client can have sent
_TRAFFIC = Field("bytes sent and received, by each client that answered counts", _is_traffic)


@dataclass(frozen=True)
class Layout:
    """What a run's checkpoints look like, once it has begun: whatever else lies in a folder, nobody is asked for it.

    Tensors are declared by tensors: one on torch's "meta" device stands for all of its shape and type that are finite,
    any other for itself.

    Args:
        run: with the public constants and the plan that the settings lead to; its run_id is not looked at.
        progress: every field of progress, in the order of their tests, but for what is every run's: "traffic".
        state: from progress that passed, the tensors of the state.
        remembered: from progress that passed, how many rounds have a memory; they lie before progress["rounds"].
        memory: the tensors of each of these rounds.
    """

    run: Run
    progress: Mapping[str, Field]
    state: Callable[[Mapping[str, Any]], Mapping[str, Tensor]]
    remembered: Callable[[Mapping[str, Any]], int] = lambda progress: 0
    memory: Mapping[str, Tensor] = field(default_factory=dict)

    def fault(self, found: Checkpoint) -> str | None:
        """The first thing in which the checkpoint is not of this layout, or None."""
        return next(self._faults(found), None)

    def _faults(self, found: Checkpoint) -> Iterator[str]:
        # Not to be exhausted: what comes later relies on what was looked at before.
        yield from self._run_faults(found.run)
        if not found.progress:  # before the first query
            if found.state or found.memory:
                yield "it holds tensors, but no progress"
            return
        fields = {**self.progress, "traffic": _TRAFFIC}
        for name in sorted(fields.keys() ^ found.progress.keys()):
            yield f"progress: {name!r} is {'no field of it' if name in found.progress else 'missing'}"
        for name, (allowed, test) in fields.items():
            if not test(found.progress[name], found.progress):
                yield f"progress: {name} is {reprlib.repr(found.progress[name])}, not {allowed}"
        yield from tensor_faults("state", self.state(found.progress), found.state)
        if len(found.memory) != self.remembered(found.progress):
            yield f"it remembers {len(found.memory)} rounds, not {self.remembered(found.progress)}"
        for t, tensors in found.memory.items():
            if t >= found.progress["rounds"]:
                yield f"it remembers round {t}, which was not played"
            yield from tensor_faults(f"memory of round {t}", self.memory, tensors)

    def _run_faults(self, found: Run) -> Iterator[str]:
        here, there = self.run.plan, found.plan
        if found.info != self.run.info:
            yield "its run is on other data than its identity says"
        # A calibrated sigma may differ in its last digits with other numerical libraries.
        if here is not None and there is not None and math.isclose(*_sigmas(here, there), rel_tol=1e-6):
            there = dataclasses.replace(there, noise_multiplier=here.noise_multiplier)
        # By what clients pin: 1 and 1.0 are equal, and written otherwise.
        if dataclasses.replace(self.run, plan=there).terms_digest != self.run.terms_digest:
            yield f"its run has the plan {there}, the settings lead to {here}"


def _sigmas(*plans: PrivacyPlan) -> tuple[float, ...]:
    return tuple(plan.noise_multiplier for plan in plans)


def is_between(value: object, least: int, most: int) -> bool:
    """Is it a whole number of this range?  True and 1.0 are none."""
    return type(value) is int and least <= value <= most


def is_part(value: object, names: Collection[str]) -> bool:
    """Is it a list of some of these names, in their order and each once?"""
    return isinstance(value, list) and value == [name for name in names if name in value]


def answered(client_ids: Sequence[str], asked: Sequence[Collection[str]], beforehand: int = 0) -> Field:
    """Progress "answered": by client the messages used, no more than it was asked for in the rounds done.

    Args:
        client_ids: all clients.
        asked: who is asked in each round.
        beforehand: queries to each client before the first round.
    """

    def test(value: Any, progress: Mapping[str, Any]) -> bool:
        if not isinstance(value, dict) or not set(progress["active"]) <= value.keys() <= set(client_ids):
            return False
        played = [client_id for round_ in asked[: progress["rounds"]] for client_id in round_]
        return all(is_between(count, 0, beforehand + played.count(client_id)) for client_id, count in value.items())

    return Field("messages used, by client, no more than it was asked for", test)


def prototypes(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    """Any finite float32 tensors of these shapes."""
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def tensor_faults(where: str, declared: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Iterator[str]:
    for name in sorted(declared.keys() ^ found.keys()):
        yield f"{where}: tensor {name!r} is {'not expected' if name in found else 'missing'}"
    for name in sorted(declared.keys() & found.keys()):
        own, other = declared[name], found[name]
        if (own.dtype, own.shape) != (other.dtype, other.shape):
            yield f"{where}: {name} is {other.dtype} {list(other.shape)}, not {own.dtype} {list(own.shape)}"
        elif not bool(torch.isfinite(other).all()):
            yield f"{where}: {name} holds NaN or infinity"
        elif not own.is_meta and not torch.equal(own, other):
            yield f"{where}: {name} is not what its progress leads to"
