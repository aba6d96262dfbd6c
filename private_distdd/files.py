"""Files: read with a bound on their length, written whole or not at all, flushed to disk.  No torch in here."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path


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
        OSError: the disk is full or the place cannot be written; a file that was there before is untouched, unless
            only the flush of its folder failed, after the new one had taken its place.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.unlink(missing_ok=True)  # one that a crash left may have other permissions
        with descriptor(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode) as file:
            write_durably(file, data)
        os.replace(partial, path)
        sync(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def write_durably(file: int, data: bytes) -> None:
    """Write all of the bytes to an open descriptor and flush them to disk.

    Raises:
        OSError: it failed; how much of the bytes the file holds is then unknown.
    """
    while data:
        data = data[os.write(file, data) :]
    os.fsync(file)


def numbered(folder: Path, stem: str) -> Path:
    """The first of stem-001, stem-002, ... that the folder does not hold; nothing is made."""
    return next(path for i in itertools.count(1) if not os.path.lexists(path := folder / f"{stem}-{i:03}"))


def sync(path: Path) -> None:
    """Flush a file, or a folder's entries, to disk, so that a new file or a rename survives a power cut."""
    with descriptor(path, os.O_RDONLY) as file:
        os.fsync(file)


@contextlib.contextmanager
def descriptor(path: Path, flags: int, mode: int = 0o600) -> Iterator[int]:
    """The file's descriptor while the block runs; a file that this makes gets the permissions `mode`.

    Raises:
        OSError: it cannot be opened.
    """
    file = os.open(path, flags, mode)
    try:
        yield file
    finally:
        os.close(file)
