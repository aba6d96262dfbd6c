"""Releases that were changed, and re-sealed."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from hypothesis import strategies as st

from private_distdd.cli import main
from private_distdd.errors import PrivateDistDDError
from private_distdd.networks.trained import TrainedNetwork
from private_distdd.release.card import render_card
from private_distdd.release.folder import MANIFEST, manifest_of, pretty
from private_distdd.release.release import Release, verify_folder
from private_distdd.synthetic.dataset import SyntheticDataset

from .harness import Finding, bounded, outcome
from .ledgers import chained
from .mutate import byte_edits, dump, edited, edited_bytes, edited_tensors, envelope, record_edits, tensor_edits
from .target import target
from .valid import INFO, NAMES, RUNS, SPEC, client, fresh, weights

TAUGHT = ", taught"


def taught(release: Release) -> Release:
    """The release with soft labels and a classifier."""
    data = release.dataset
    soft = torch.full((len(data), INFO.num_classes), 1 / INFO.num_classes)
    data = SyntheticDataset(data.images, data.labels, data.info, data.partition, soft)
    card = dict(release.card) | {"soft_labels": True, "teacher": SPEC.to_json()}
    return Release(data, card, release.ledgers, teacher=TrainedNetwork(SPEC, weights(SPEC), INFO))


@functools.cache
def released(name: str) -> dict[str, bytes]:
    """The files of a sound release."""
    folder = fresh("released")
    with bounded():
        release = RUNS[name.removesuffix(TAUGHT)].fit([client(n) for n in NAMES])
        if name.endswith(TAUGHT):
            release = taught(release)
        release.save(folder / "run")
    files = sorted(path for path in (folder / "run").rglob("*") if path.is_file())
    found = {str(path.relative_to(folder / "run")): path.read_bytes() for path in files}
    assert not verify_folder(folder / "run")
    return found


RELEASES = ("distdd", "collabdm open", f"distdd{TAUGHT}")


def write_release(folder: Path, files: Mapping[str, bytes]) -> None:
    """The files, with a manifest made anew."""
    contents = {name: data for name, data in files.items() if name != MANIFEST}
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    for name, data in {**contents, MANIFEST: manifest_of(hashes)}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


@functools.cache
def changed_releases() -> st.SearchStrategy[Any]:
    """(release, what is changed, edits): a card, a ledger, S, or some bytes of a file; all re-sealed but the last."""

    def of(name: str) -> st.SearchStrategy[Any]:
        files = released(name)
        card = json.loads(files["card.json"])
        base, own = st.just(name), [json.loads(line) for line in files["ledgers/a.jsonl"].splitlines()]
        cards = st.tuples(base, st.just("card"), record_edits(card))
        return st.one_of(
            cards,
            cards,
            cards,
            st.tuples(base, st.just("ledger"), record_edits(own)),
            *[
                own
                for file in sorted(name for name in files if name.endswith(".safetensors"))
                for own in (
                    st.tuples(base, st.just(f"header of {file}"), record_edits(_header(files[file]))),
                    st.tuples(
                        base, st.just(f"tensors of {file}"), tensor_edits(sorted(safetensors.torch.load(files[file])))
                    ),
                )
            ],
            st.tuples(base, st.sampled_from(sorted(files)), byte_edits()),
            st.tuples(base, st.sampled_from([f"raw {file}" for file in sorted(files)]), byte_edits()),
        )

    return st.one_of(*[of(name) for name in RELEASES])


def _header(data: bytes) -> Any:
    return json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["json"])


def write_changed_release(folder: Path, case: tuple[str, str, Any]) -> None:
    """The folder that a case says."""
    name, what, edits = case
    files = dict(released(name))
    if what == "card":
        card = edited(json.loads(files["card.json"]), edits)
        files["card.json"] = (json.dumps(json.loads(dump(card)), indent=1, sort_keys=True) + "\n").encode()
        with contextlib.suppress(Exception):  # a card that no page can show keeps the old one
            files["card.html"] = render_card(card).encode()
    elif what == "ledger":
        records = edited([json.loads(line) for line in files["ledgers/a.jsonl"].splitlines()], edits)
        files["ledgers/a.jsonl"] = data = chained(records if isinstance(records, list) else [records])
        card = json.loads(files["card.json"])
        card["clients"]["a"] |= {
            "ledger_head": hashlib.sha256(data[:-1].rpartition(b"\n")[2]).hexdigest(),
            "ledger_lines": data.count(b"\n"),
        }
        files["card.json"] = pretty(card)
        files["card.html"] = render_card(card).encode()
    elif what.startswith(("header of ", "tensors of ")):
        part, _, file = what.partition(" of ")
        tensors, header = safetensors.torch.load(files[file]), _header(files[file])
        header = edited(header, edits) if part == "header" else header
        tensors = edited_tensors(tensors, edits) if part == "tensors" else tensors
        files[file] = envelope(header, tensors)
    elif not what.startswith("raw "):
        files[what] = edited_bytes(files[what], edits)
    write_release(folder, files)
    if what.startswith("raw "):
        path = folder / what[4:]
        path.write_bytes(edited_bytes(path.read_bytes(), edits))


@target(300, changed_releases)
def releases(case: tuple[str, str, Any]) -> None:
    """A release verifies, or what is wrong is said; and it loads, or is refused."""
    folder = fresh("release") / "run"
    _written(folder, case)
    failures = outcome(lambda: verify_folder(folder))
    if isinstance(failures, PrivateDistDDError):
        raise Finding("verify_folder raised", failures)
    if any("MemoryError" in line or "allocate" in line for line in failures):
        raise Finding(f"memory is not bounded: {failures[0][:80]}")
    outcome(lambda: Release.load(folder))


@target(100, changed_releases)
def command(case: tuple[str, str, Any]) -> None:
    """`private-distdd verify` ends with 0, 1 or 2, and shows no traceback."""
    folder = fresh("release") / "run"
    _written(folder, case)
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        code = outcome(lambda: main(["verify", str(folder)]))
    if not isinstance(code, int) or code not in (0, 1, 2) or "Traceback" in text.getvalue():
        raise Finding(f"verify ended with {code!r}")


def _written(folder: Path, case: tuple[str, str, Any]) -> None:
    try:
        write_changed_release(folder, case)
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):  # no file could say so
        shutil.rmtree(folder, ignore_errors=True)
        write_release(folder, released(case[0]))
