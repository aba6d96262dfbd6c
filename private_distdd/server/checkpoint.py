"""The checkpoint of a run: what the server needs to go on after it was killed, as safetensors and JSON.

    checkpoint.safetensors       the state after the newest round; replaced as a whole, never half
    memory-000017.safetensors    what round 17 left for later rounds to match again; written once

The first names the others by their SHA-256, and carries its own.  Only the server's values are kept, all of them public
or post-processed with privacy: ledgers and stored messages stay with the clients.
"""

from __future__ import annotations

import json
import os
import re
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from private_distdd.encoding import sha256, to_json
from private_distdd.errors import CheckpointError, PrivateDistDDError
from private_distdd.files import sync, write_file
from private_distdd.release.form import version
from private_distdd.server.layout import Layout
from private_distdd.server.state import Checkpoint
from private_distdd.storage import pack, unpack
from private_distdd.wire.run import Run

FORMAT = "private_distdd.checkpoint/1"
STATE = "checkpoint.safetensors"
_MEMORY = re.compile(r"memory-[0-9]{6,}\.safetensors(\.partial)?")
_ROUND = re.compile(r"0|[1-9][0-9]{0,8}")
_HEADER = {"identity": dict, "run": str, "progress": dict, "memory": dict, "sha256": str}
_PACKAGES = ("private-distdd", "torch", "numpy")  # another version may draw other networks from the same seed


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
        self.path = Path(path)
        versions = {f"version of {name}": version(name) for name in _PACKAGES}
        self._identity = json.loads(to_json({"format": FORMAT, **versions, **identity}))
        self._written: dict[int, str] = {}  # SHA-256 of the memory's files, by round

    def start(self, checkpoint: Checkpoint) -> None:
        """Write the first checkpoint of a new run, before any client is asked to agree to it.

        Raises:
            CheckpointError: the folder holds a checkpoint already, or cannot be written.
        """
        if os.path.lexists(self.path / STATE):
            raise CheckpointError(
                f"{self.path} holds the checkpoint of a run",
                "a folder without one, for a new run",
                "Go on with that run (resume), or choose another folder; nothing is overwritten.",
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            sync(self.path.parent)
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
                    write_file(self.path / _memory(t), data)
                    self._written[t] = sha256(data)
            self._written = {t: self._written[t] for t in checkpoint.memory}
            header = {
                "identity": self._identity,
                "run": checkpoint.run.to_bytes().decode(),
                "progress": checkpoint.progress,
                "memory": {str(t): digest for t, digest in self._written.items()},
            }
            write_file(self.path / STATE, _sealed(header, checkpoint.state))
            current = {_memory(t) for t in self._written}
            for path in list(self.path.iterdir()):  # only now: until here they belonged to the checkpoint before
                if _MEMORY.fullmatch(path.name) and path.name not in current:
                    path.unlink()
        except OSError as error:
            raise self._failed(error) from error

    def read(self, layout: Callable[[], Layout] | None = None) -> Checkpoint:
        """The newest checkpoint.

        Args:
            layout: makes what it must look like, once its identity is known to be this one's; to go on needs it.

        Raises:
            CheckpointError: there is none, it is damaged, it belongs to another run or version, or it is not of the
                layout: hashes keep out accidents, the layout what was made to look whole.
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
        if layout is not None and (fault := layout().fault(found)) is not None:
            raise self._damaged(STATE, fault)
        return found

    def _remembered(self, t: int, digest: object) -> dict[str, Tensor]:
        data = self._read(_memory(t))
        try:
            if sha256(data) != digest:
                raise ValueError("its bytes are not those that were written")
            return unpack(data)[1]
        except ValueError as error:
            raise self._damaged(_memory(t), str(error)) from error

    def _read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError as error:
            if name != STATE:
                raise self._damaged(name, "it is missing") from error
            raise CheckpointError(
                f"{self.path} holds no checkpoint",
                "the folder of a run that was started with a checkpoint",
                "Check the path, or start a new run there.",
            ) from error
        except OSError as error:
            raise CheckpointError(
                f"{self.path / name} cannot be read: {error.strerror}", "a readable file", "Mend that, then resume."
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
                f"the checkpoint in {self.path} is of another run ({'; '.join(differing)})",
                "the same method, settings, clients, data set and versions",
                "Resume as the run was started, or start a new one in another folder.",
            )

    def _damaged(self, name: str, why: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path / name} is damaged: {why}",
            "a checkpoint as it was written",
            "Restore the folder from a copy; the clients' ledgers keep what was spent.",
        )

    def _failed(self, error: OSError) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: a checkpoint cannot be written: {error.strerror or error}",
            "a writable folder on a disk with room",
            "Mend that; if the run had begun, it goes on from the checkpoint before.",
        )


def _memory(t: int) -> str:
    return f"memory-{t:06d}.safetensors"


def _sealed(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """The envelope, with the SHA-256 of what it is without that field."""
    return pack({**header, "sha256": sha256(pack(header, tensors))}, tensors)
