"""Hostile bytes and values: lines, never a traceback, and never much memory."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from releases import files_of, forge, leaves, seal

import private_distdd.release.folder as folder_module
from private_distdd.release.folder import pretty
from private_distdd.release.release import Release, verify_folder


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("data", "image_shape"), [2**26, 1, 1]),
        (("data", "image_shape"), [1, 2**40, 2**40]),
        (("data", "num_classes"), 2**60),
        (("ipc",), 2**62),
        (("progress", "rounds_planned"), 10**300),
        (("plan", "max_queries"), 10**400),
    ],
)
def test_a_few_bytes_of_a_card_cannot_cost_much(folder: Path, where: tuple[str, ...], value: Any) -> None:
    def edit(card: Any) -> None:
        for key in where[:-1]:
            card = card[key]
        card[where[-1]] = value

    tracemalloc.start()
    try:
        card = json.loads((folder / "card.json").read_bytes())
        edit(card)
        (folder / "card.json").write_bytes(pretty(card))
        seal(folder)
        assert verify_folder(folder)
        assert tracemalloc.get_traced_memory()[1] < 3 * 10**7
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["card.json", "manifest.json", "preview.png", "card.html", "ledgers/ann.jsonl"])
def test_files_of_any_length_are_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    longest = max(len(data) for data in files_of(folder).values())
    for limit in ("PAGE_BYTES", "LEDGER_BYTES"):
        monkeypatch.setattr(folder_module, limit, longest)
    assert verify_folder(folder) == []
    with open(folder / name, "ab") as file:
        file.truncate(longest + 1)
    (found,) = verify_folder(folder)
    assert f"is longer than {longest} bytes" in found


def test_a_terminal_is_not_steered_by_names(folder: Path) -> None:
    (folder / "\x1b[2J\nall is well").write_text("x")
    failures = verify_folder(folder)
    assert failures == ["\\x1b[2J\\nall is well was added"]
    assert len(forge(folder, lambda card: card.update({"x" * 10000: 1}))[0]) < 500


HOSTILE = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b'"card"',
    b"NaN",
    b'{"files": NaN}',
    b'{"files": []}',
    b'{"files": [[1, 2]]}',
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"1" * 10_000,
    b"1e999",
    b"\xff\xfe\x00",
    b"\x80",
    b'{"format": "private_distdd.release/1", "format": 1}',
]


@pytest.mark.parametrize("name", ["card.json", "manifest.json", "synthetic.safetensors", "ledgers/ann.jsonl"])
def test_hostile_bytes(folder: Path, name: str) -> None:
    for data in HOSTILE:
        (folder / name).write_bytes(data)
        if name != "manifest.json":
            seal(folder)
        failures = verify_folder(folder)
        assert failures
        assert all(line.isprintable() and len(line) < 500 for line in failures)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="ascii")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150)
@given(data=st.data())
def test_hostile_values_anywhere_on_the_card(private: Release, data: st.DataObject) -> None:
    card = json.loads(json.dumps(private.card))
    paths = list(leaves(card))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(paths))
        path = path[: data.draw(st.integers(1, len(path)))]
        place = card
        for name in path[:-1]:
            place = place.get(name, {}) if isinstance(place, dict) else {}
        if isinstance(place, dict):
            place[path[-1]] = data.draw(JSON)
    failures = Release(private.dataset, card, private.ledgers).failures()
    assert all(isinstance(line, str) and line.isprintable() for line in failures)


@settings(max_examples=100)
@given(data=st.binary(max_size=200))
def test_hostile_synthetic_sets(private: Release, saved: Path, data: bytes) -> None:
    folder = saved.parent / "hostile"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved, folder)
    header = len(data).to_bytes(8, "little")
    (folder / "synthetic.safetensors").write_bytes(header + data)
    seal(folder)
    assert len(verify_folder(folder)) == 1
