"""The files of a release: manifest, contents, and how they are read from a folder that is anybody's."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from private_distdd.encoding import sha256, to_json
from private_distdd.files import read_file
from private_distdd.limits import (
    HEADER_BYTES,
    LEDGER_BYTES,
    PAGE_BYTES,
    RELEASE_LEDGERS_BYTES,
    SYNTHETIC_BYTES,
    TRAINED_BYTES,
)
from private_distdd.networks.trained import TrainedNetwork
from private_distdd.release.card import render_card
from private_distdd.release.contents import Contents
from private_distdd.release.form import form_failures, version
from private_distdd.release.picture import plain_png, same_picture
from private_distdd.synthetic.dataset import SyntheticDataset
from private_distdd.validate import IDENTIFIER

FORMAT = "private_distdd.release/1"
SYNTHETIC, CARD, CARD_PAGE, PREVIEW = "synthetic.safetensors", "card.json", "card.html", "preview.png"
MANIFEST, LEDGERS = "manifest.json", "ledgers"
TEACHER = "teacher.safetensors"
_LONGEST = {SYNTHETIC: SYNTHETIC_BYTES, TEACHER: TRAINED_BYTES + HEADER_BYTES}
_LONGEST_LINE = 400  # of a failure, in characters


def folder_failures(release: Contents) -> Iterator[str]:
    """Page and picture must show this card and this S: many a reader looks at nothing else."""
    if release.folder is None:
        return
    own = release.card["versions"]["private-distdd"] == version("private-distdd")  # another's page looks otherwise
    if own and (release.folder / CARD_PAGE).read_bytes() != render_card(release.card).encode():
        yield f"{CARD_PAGE} does not show what {CARD} says"
    if release.synthetic is None:
        return
    grid = release.synthetic.grid()
    if not plain_png(read_file(release.folder / PREVIEW, PAGE_BYTES), *grid.shape[:2]):
        yield f"{PREVIEW} holds more than one picture"
    elif not same_picture(release.folder / PREVIEW, grid):
        yield f"{PREVIEW} does not show the images of {SYNTHETIC}"


def line_of(failure: str) -> str:
    """One printable line of bounded length, whatever names and values it quotes."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in failure)
    return text if len(text) <= _LONGEST_LINE else f"{text[:_LONGEST_LINE]} ..."


def pretty(record: Mapping[str, Any]) -> bytes:
    """JSON for people, the same bytes for equal records: how card and manifest are written."""
    return (json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def manifest_of(hashes: Mapping[str, str]) -> bytes:
    """Names and SHA-256 of all other files, and the SHA-256 of this very statement."""
    record = {"format": FORMAT, "files": dict(hashes)}
    return pretty(record | {"self": sha256(to_json(record).encode())})


def contents_of(folder: Path, listed: Collection[str] | None = None) -> dict[str, bytes]:
    """Every file of a release but the manifest, by name; of those that are not `listed` nothing is read.

    Raises:
        ValueError: something else lies there: a link, a device, another folder.
        OSError: something cannot be read, or is longer than it may be.
    """
    contents: dict[str, bytes] = {}
    room = RELEASE_LEDGERS_BYTES
    for place in ("", f"{LEDGERS}/"):
        for name in sorted(os.listdir(folder / place)):
            path = folder / place / name
            if place + name == LEDGERS and path.is_dir() and not path.is_symlink():
                continue
            _plain(path)
            if listed is not None and place + name not in listed:
                contents[place + name] = b""
                continue
            contents[place + name] = read_file(path, min(room, _longest(place + name)))
            room -= len(contents[place + name]) if place else 0
    contents.pop(MANIFEST, None)
    return contents


def _plain(path: Path) -> Path:
    """The path, if it is a file: no link, pipe or device, whose reading may never end.

    Raises:
        ValueError: it is not.
        FileNotFoundError: nothing is there.
    """
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise ValueError(f"{path.name} is not a plain file")
    return path


def _longest(name: str) -> int:
    """The most bytes that a file of this name is read of."""
    if name.startswith(f"{LEDGERS}/"):
        return LEDGER_BYTES
    return _LONGEST.get(name, PAGE_BYTES)


def read_release(folder: Path) -> Contents | list[str]:
    """The release in the folder, or what is wrong with its files, a line each."""
    try:
        data = read_file(_plain(folder / MANIFEST), PAGE_BYTES)
        contents = contents_of(folder, json.loads(data)["files"])
        failures = _file_failures(contents, data)
        if failures:
            return list(map(line_of, failures))
        card = json.loads(contents[CARD])
        if pretty(card) != contents[CARD]:
            return [f"{CARD} is not written as this library writes it"]
        if malformed := form_failures(card):
            return list(map(line_of, malformed))
        ledgers = {Path(name).stem: data for name, data in contents.items() if name.startswith(f"{LEDGERS}/")}
        teacher = TrainedNetwork.load(folder / TEACHER) if TEACHER in contents else None
        synthetic = SyntheticDataset.load(folder / SYNTHETIC) if SYNTHETIC in contents else None
        return Contents(synthetic, card, ledgers, folder, teacher)
    except Exception as error:  # the folder is anybody's: whatever it breaks is a finding, not a crash
        return [line_of(f"it cannot be read as a release: {type(error).__name__}: {error}")]


def _file_failures(contents: Mapping[str, bytes], manifest: bytes) -> list[str]:
    files = json.loads(manifest)["files"]
    if manifest != manifest_of(files):
        return [f"{MANIFEST} was changed"]
    own = re.compile(rf"{LEDGERS}/{IDENTIFIER.pattern}\.jsonl")
    required = {CARD, CARD_PAGE, *({SYNTHETIC, PREVIEW} if files.keys() & {SYNTHETIC, PREVIEW} else {TEACHER})}
    failures = [f"{name} is missing" for name in sorted(files.keys() - contents.keys())]
    failures += [f"{name} was added" for name in sorted(contents.keys() - files.keys())]
    failures += [f"{n} was changed" for n in sorted(files.keys() & contents.keys()) if files[n] != sha256(contents[n])]
    failures += [f"{name} is not listed" for name in sorted(required - files.keys())]
    known = {SYNTHETIC, CARD, CARD_PAGE, PREVIEW, TEACHER}
    failures += [f"{n} is no part of a release" for n in sorted(files) if n not in known and not own.fullmatch(n)]
    return failures
