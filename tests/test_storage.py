"""Envelopes: same bytes for same contents, never a pickle."""

from __future__ import annotations

import json
import math
import os
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from private_distdd.encoding import to_json
from private_distdd.storage import pack, unpack

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
