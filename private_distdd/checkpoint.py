"""The checkpoint of a run: what the server needs to go on after it was killed, as safetensors and JSON.

    checkpoint.safetensors       the state after the newest round; replaced as a whole, never half
    memory-000017.safetensors    what round 17 left for later rounds to match again; written once

The first names the others by their SHA-256, and carries its own.  Only the server's values are kept, all of them public
or post-processed with privacy: ledgers and stored messages stay with the clients.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import reprlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from private_distdd.errors import CheckpointError, PrivateDistDDError
from private_distdd.federation.messages import Run
from private_distdd.privacy.spec import PrivacyPlan
from private_distdd.storage import pack, sync, to_json, unpack, write_file

FORMAT = "private_distdd.checkpoint/1"
STATE = "checkpoint.safetensors"
_MEMORY = re.compile(r"memory-[0-9]{6,}\.safetensors(\.partial)?")
_ROUND = re.compile(r"0|[1-9][0-9]{0,8}")
_HEADER = {"identity": dict, "run": str, "progress": dict, "memory": dict, "sha256": str}
_PACKAGES = ("private-distdd", "torch", "numpy")  # another version may draw other networks from the same seed


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Where a run stands; with `run` alone, before its first query.

    Args:
        run: what the clients are asked to agree to.
        progress: JSON-able values.
        state: tensors by name.
        memory: tensors by name, for each round that is remembered; those of one round never change.
    """

    run: Run
    progress: Mapping[str, Any] = field(default_factory=dict)
    state: Mapping[str, Tensor] = field(default_factory=dict)
    memory: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)


class Field(NamedTuple):
    """What one value of a checkpoint's progress must be.

    Args:
        allowed: in words.
        test: from the value and all of progress; it may rely on the fields declared before its own.
    """

    allowed: str
    test: Callable[[Any, Mapping[str, Any]], bool]


@dataclass(frozen=True)
class Form:
    """What a run's checkpoints look like, once it has begun: whatever else lies in a folder, nobody is asked for it.

    Tensors are declared by tensors: one on torch's "meta" device stands for all of its shape and type that are finite,
    any other for itself.

    Args:
        run: with the public constants and the plan that the settings lead to; its run_id is not looked at.
        progress: every field of progress, in the order of their tests.
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
        """The first thing in which the checkpoint is not of this form, or None."""
        return next(self._faults(found), None)

    def _faults(self, found: Checkpoint) -> Iterator[str]:
        # Not to be exhausted: what comes later relies on what was looked at before.
        yield from self._run_faults(found.run)
        if not found.progress:  # before the first query
            if found.state or found.memory:
                yield "it holds tensors, but no progress"
            return
        for name in sorted(self.progress.keys() ^ found.progress.keys()):
            yield f"progress: {name!r} is {'no field of it' if name in found.progress else 'missing'}"
        for name, (allowed, test) in self.progress.items():
            if not test(found.progress[name], found.progress):
                yield f"progress: {name} is {reprlib.repr(found.progress[name])}, not {allowed}"
        yield from _tensor_faults("state", self.state(found.progress), found.state)
        if len(found.memory) != self.remembered(found.progress):
            yield f"it remembers {len(found.memory)} rounds, not {self.remembered(found.progress)}"
        for t, tensors in found.memory.items():
            if t >= found.progress["rounds"]:
                yield f"it remembers round {t}, which was not played"
            yield from _tensor_faults(f"memory of round {t}", self.memory, tensors)

    def _run_faults(self, found: Run) -> Iterator[str]:
        here, there = self.run.plan, found.plan
        if found.info != self.run.info:
            yield "its run is on other data than its identity says"
        # A calibrated sigma may differ in its last digits with other numerical libraries.
        if here is not None and there is not None and math.isclose(*_sigmas(here, there), rel_tol=1e-6):
            there = dataclasses.replace(there, noise_multiplier=here.noise_multiplier)
        # By what clients pin: 1 and 1.0 are equal, and written otherwise.
        if dataclasses.replace(self.run, plan=there).terms != self.run.terms:
            yield f"its run has the plan {there}, the settings lead to {here}"


def _sigmas(*plans: PrivacyPlan) -> tuple[float, ...]:
    return tuple(plan.noise_multiplier for plan in plans)


def is_whole(value: object, least: int, most: int) -> bool:
    """Is it a whole number of this range?  True and 1.0 are none."""
    return type(value) is int and least <= value <= most


def is_part(value: object, names: Collection[str]) -> bool:
    """Is it a list of some of these names, in their order and each once?"""
    return isinstance(value, list) and value == [name for name in names if name in value]


def prototypes(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    """Any finite float32 tensors of these shapes."""
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def _tensor_faults(where: str, declared: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Iterator[str]:
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


class CheckpointFolder:
    """The folder that one run's newest checkpoint lies in; other files there are left alone.

    Args:
        path: the folder; it is made by `start`.
        identity: JSON-able values by name that must be the same for a run to go on; the versions of this library, torch
            and numpy belong to them by themselves.

    Formal guarantee: after `start` or `write` returned, and however the process ends later, `read` returns that
    checkpoint or a newer one; it never returns anything that was not written whole.
    """

    def __init__(self, path: str | os.PathLike[str], identity: Mapping[str, Any]) -> None:
        self._folder = Path(path)
        versions = {f"version of {name}": version(name) for name in _PACKAGES}
        self._identity = json.loads(to_json({"format": FORMAT, **versions, **identity}))
        self._written: dict[int, str] = {}  # SHA-256 of the memory's files, by round

    def start(self, checkpoint: Checkpoint) -> None:
        """Write the first checkpoint of a new run, before any client is asked to agree to it.

        Raises:
            CheckpointError: the folder holds a checkpoint already, or cannot be written.
        """
        if os.path.lexists(self._folder / STATE):
            raise CheckpointError(
                f"{self._folder} holds the checkpoint of a run",
                "a folder without one, for a new run",
                "Go on with that run (resume), or choose another folder; nothing is overwritten.",
            )
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            sync(self._folder.parent)
        except OSError as error:
            raise self._failed(error) from error
        self.write(checkpoint)

    def write(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint.

        Raises:
            CheckpointError: it cannot be written (a full disk, for example); the one before is still whole.
        """
        try:
            for t, tensors in checkpoint.memory.items():
                if t not in self._written:
                    data = pack({}, tensors)
                    write_file(self._folder / _memory(t), data)
                    self._written[t] = _sha256(data)
            self._written = {t: self._written[t] for t in checkpoint.memory}
            header = {
                "identity": self._identity,
                "run": checkpoint.run.to_bytes().decode(),
                "progress": checkpoint.progress,
                "memory": {str(t): digest for t, digest in self._written.items()},
            }
            write_file(self._folder / STATE, _sealed(header, checkpoint.state))
            current = {_memory(t) for t in self._written}
            for path in list(self._folder.iterdir()):  # only now: until here they belonged to the checkpoint before
                if _MEMORY.fullmatch(path.name) and path.name not in current:
                    path.unlink()
        except OSError as error:
            raise self._failed(error) from error

    def read(self, form: Callable[[], Form] | None = None) -> Checkpoint:
        """The newest checkpoint.

        Args:
            form: makes what it must look like, once its identity is known to be this one's; to go on needs it.

        Raises:
            CheckpointError: there is none, it is damaged, it belongs to another run or version, or it is not of the
                form: hashes keep out accidents, the form what was made to look whole.
        """
        data = self._read(STATE)
        try:
            header, state = unpack(data)
            if _sealed({name: value for name, value in header.items() if name != "sha256"}, state) != data:
                raise ValueError("its bytes are not those that were written")
            if {name: type(value) for name, value in header.items()} != _HEADER:
                raise ValueError(f"its header does not have the fields {sorted(_HEADER)}, or has others in their place")
            run = header["run"].encode()
            if wrong := [name for name in header["memory"] if not _ROUND.fullmatch(name)]:
                raise ValueError(f"it remembers rounds {reprlib.repr(wrong)}")
        except (ValueError, RecursionError) as error:
            raise self._damaged(STATE, str(error)) from error
        self._compare(header["identity"])
        self._written = {int(t): digest for t, digest in header["memory"].items()}
        memory = {t: self._remembered(t, digest) for t, digest in self._written.items()}
        try:
            found = Checkpoint(Run.from_bytes(run), header["progress"], state, memory)
        except PrivateDistDDError as error:
            raise self._damaged(STATE, str(error)) from error
        if form is not None and (fault := form().fault(found)) is not None:
            raise self._damaged(STATE, fault)
        return found

    def _remembered(self, t: int, digest: object) -> dict[str, Tensor]:
        data = self._read(_memory(t))
        try:
            if _sha256(data) != digest:
                raise ValueError("its bytes are not those that were written")
            return unpack(data)[1]
        except ValueError as error:
            raise self._damaged(_memory(t), str(error)) from error

    def _read(self, name: str) -> bytes:
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError as error:
            if name != STATE:
                raise self._damaged(name, "it is missing") from error
            raise CheckpointError(
                f"{self._folder} holds no checkpoint",
                "the folder of a run that was started with a checkpoint",
                "Check the path, or start a new run there.",
            ) from error
        except OSError as error:
            raise CheckpointError(
                f"{self._folder / name} cannot be read: {error.strerror}", "a readable file", "Mend that, then resume."
            ) from error

    def _compare(self, saved: Mapping[str, Any]) -> None:
        here = self._identity
        differing = [
            f"{name}: {reprlib.repr(saved.get(name))} there, {reprlib.repr(here.get(name))} here"
            for name in sorted(saved.keys() | here.keys())
            if saved.get(name) != here.get(name)
        ]
        if differing:
            raise CheckpointError(
                f"the checkpoint in {self._folder} is of another run ({'; '.join(differing)})",
                "the same method, settings, clients, data set and versions",
                "Resume as the run was started, or start a new one in another folder.",
            )

    def _damaged(self, name: str, why: str) -> CheckpointError:
        return CheckpointError(
            f"{self._folder / name} is damaged: {why}",
            "a checkpoint as it was written",
            "Restore the folder from a copy; the clients' ledgers keep what was spent.",
        )

    def _failed(self, error: OSError) -> CheckpointError:
        return CheckpointError(
            f"{self._folder}: a checkpoint cannot be written: {error.strerror or error}",
            "a writable folder on a disk with room",
            "Mend that; if the run had begun, it goes on from the checkpoint before.",
        )


def _memory(t: int) -> str:
    return f"memory-{t:06d}.safetensors"


def _sealed(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """The envelope, with the SHA-256 of what it is without that field."""
    return pack({**header, "sha256": _sha256(pack(header, tensors))}, tensors)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
