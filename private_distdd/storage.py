"""Bytes and files: one safetensors envelope for everything with tensors, and writes that are whole or absent."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from private_distdd.encoding import to_json
from private_distdd.limits import HEADER_BYTES


def pack(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """One safetensors file as bytes: named tensors, and a JSON header in its metadata.  Equal inputs, equal bytes."""
    # One metadata key only: safetensors does not promise an order for several.
    metadata = {"json": to_json(header)}
    return bytes(safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, metadata))


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `pack` was given.

    Raises:
        ValueError: the bytes are not such a file, or their header is longer than `limits.HEADER_BYTES`; callers turn it
            into their own error.
    """
    length = int.from_bytes(data[:8], "little")
    if length > HEADER_BYTES:
        raise ValueError(f"no envelope of this library: a header of {length} bytes, more than {HEADER_BYTES}")
    try:
        tensors = safetensors.torch.load(data)
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["json"])
        to_json(header)  # no NaN, no infinity: nothing that could not be written again
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError("not a safetensors envelope of this library") from error
    if not isinstance(header, dict):
        raise ValueError("the envelope's header is not a JSON object")
    return header, tensors


def read_file(path: Path, most: int) -> bytes:
    """The bytes of a file that is at most so long, whoever wrote it.

    Raises:
        OSError: it is longer, or cannot be read.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(f"{path.name} is longer than {most} bytes")
        return file.read(size)


def write_file(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file whole or not at all: into a neighbour, flushed to disk, then renamed; nothing half-written stays.

    Args:
        path: the file.
        data: all of its bytes.
        mode: its permissions, less what the process's umask takes away.

    Raises:
        OSError: the disk is full or the place cannot be written; a file that was there before is untouched.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.unlink(missing_ok=True)  # one that a crash left may have other permissions
        with open(partial, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Flush a file, or a folder's entries, to disk, so that a new file or a rename survives a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
