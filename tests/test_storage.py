"""Envelopes and files: same bytes for same contents, whole or absent, never a pickle."""

from __future__ import annotations

import errno
import json
import math
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from private_distdd import storage
from private_distdd.encoding import to_json
from private_distdd.storage import pack, unpack, write_file

TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor([1, -(2**62)]), "c": torch.zeros(0, 4)}
HEADER = {"z": [1, 2.5, None], "a": "ü\n", "nested": {"k": True}}


def test_round_trip() -> None:
    header, tensors = unpack(pack(HEADER, TENSORS))
    assert header == HEADER
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


def test_equal_inputs_equal_bytes_whatever_their_order_and_layout() -> None:
    turned = TENSORS | {"b": TENSORS["b"].t().contiguous().t()}
    assert not turned["b"].is_contiguous()
    shuffled = {name: turned[name] for name in ("c", "a", "b")}
    assert pack(dict(reversed(HEADER.items())), shuffled) == pack(HEADER, TENSORS)
    graph = TENSORS | {"b": TENSORS["b"].clone().requires_grad_(True)}
    assert pack(HEADER, graph) == pack(HEADER, TENSORS)


@given(st.binary(max_size=200))
def test_garbage_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="envelope"):
        unpack(data)


@given(st.data())
def test_truncated_or_garbled_bytes_are_a_value_error_or_still_an_envelope(data: st.DataObject) -> None:
    whole = bytearray(pack(HEADER, TENSORS))
    if data.draw(st.booleans()):
        with pytest.raises(ValueError, match="envelope"):
            unpack(bytes(whole[: data.draw(st.integers(0, len(whole) - 1))]))
        return
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        header, tensors = unpack(bytes(whole))
    except ValueError:
        return
    assert isinstance(header, dict)
    assert all(isinstance(t, torch.Tensor) for t in tensors.values())


@pytest.mark.parametrize("header", ["[]", "3", '"x"', "null", "{", "[" * 200_000])
def test_a_header_that_is_no_object_is_refused(header: str) -> None:
    text = json.dumps({"__metadata__": {"json": header}}).encode()
    text += b" " * (-len(text) % 8)
    with pytest.raises(ValueError, match="envelope"):
        unpack(len(text).to_bytes(8, "little") + text)


def test_pickles_are_not_read() -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, ("/nonexistent/evil",)

    with pytest.raises(ValueError, match="envelope"):
        unpack(pickle.dumps(Evil()))


def test_canonical_json() -> None:
    assert to_json({"b": 1, "a": [0.1, "é"]}) == '{"a":[0.1,"\\u00e9"],"b":1}'
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="JSON"):
            to_json({"x": value})


def test_write_file_replaces_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    write_file(path, b"one")
    write_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["x.bin"]


@pytest.mark.parametrize("broken", ["write", "fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, error: BaseException
) -> None:
    path = tmp_path / "x.bin"
    write_file(path, b"old")

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    if broken == "replace":
        monkeypatch.setattr(Path, "replace", fail)
    elif broken == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        real = open

        class Full:
            def __init__(self, *a: Any, **k: Any) -> None:
                self.file = real(*a, **k)

            def __enter__(self) -> Full:
                return self

            def __exit__(self, *_: Any) -> None:
                self.file.close()

            write = fail

        monkeypatch.setattr(storage, "open", Full, raising=False)
    with pytest.raises(type(error)):
        write_file(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.bin"]


def test_a_missing_folder_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        write_file(tmp_path / "none" / "x", b"")


def test_durable_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(Path, "replace", lambda a, b: (order.append("replace"), replace(a, b))[1])
    write_file(tmp_path / "x", b"data")
    assert order == ["fsync", "replace", "fsync"]  # the file, its name, the folder
