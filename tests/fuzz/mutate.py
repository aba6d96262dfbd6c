"""Changes to valid bytes, JSON records and tensors, as values: a case is a list of them, so that it can be shown."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import safetensors.torch
import torch
from hypothesis import strategies as st
from torch import Tensor

Path: TypeAlias = tuple[str | int, ...]
Edits: TypeAlias = Sequence[tuple[Any, ...]]

# Stand for JSON text that json.dumps does not write.
_DEEP, _DIGITS, _DOUBLE = "<deep>", "<digits>", "<double>"
_RAW = {
    f'"{_DEEP}"': "[" * 2000 + "]" * 2000,
    f'"{_DIGITS}"': "9" * 5000,
    f'"{_DOUBLE}"': '{"kind":1,"kind":2}',
}
HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 7, 1000, 2**20, 2**26, 2**31, 2**53, 2**63, 2**70, -(2**63), 10**400),
    *(0.0, -0.0, 0.5, 1.0, 5e-324, 1e-30, 1e16, 1e30, 1e308, -1e308, math.nan, math.inf),
    *("", "a", "NaN", "1", "../x", "\0", "\ud800", "\N{GREEK SMALL LETTER SIGMA}", "x" * 10_000),
    *([], {}, [[]], {"a": 1}, [1], [1, 2, 3], [1, 8, 8], [None], [True, True, True], [0.5], ["a"], [2**63] * 3),
    *([-1, -1, -1], [0] * 2000, [[0], [1]], _DEEP, _DIGITS, _DOUBLE),
)


SIZES = (-1, 0, 1, 3, 1000, 2**20, 2**26, 2**31, 2**53, 2**63 - 1, 2**63, 2**70, 10**400)


def values() -> st.SearchStrategy[Any]:
    """What nobody should send in place of a value."""
    numbers = st.one_of(st.integers(), st.integers(-4, 300), st.floats(), st.floats(0, 4))
    return st.one_of(st.sampled_from(HOSTILE), st.sampled_from(HOSTILE), numbers, st.text(max_size=8))


def dump(record: Any) -> str:
    """The record as canonical JSON, with NaN and the raw texts above."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    for mark, raw in _RAW.items():
        text = text.replace(mark, raw)
    return text


# Records


def paths(record: Any, path: Path = ()) -> Iterator[Path]:
    """Where every value of a JSON record lies, the record itself first."""
    yield path
    if isinstance(record, Mapping):
        for name, value in record.items():
            yield from paths(value, (*path, name))
    elif isinstance(record, list):
        for index, value in enumerate(record[:4]):
            yield from paths(value, (*path, index))


def record_edits(*records: Any, most: int = 3) -> st.SearchStrategy[Edits]:
    """Edits at places that one of the records has; where the edited one has no such place, they do nothing."""
    places = sorted({path for record in records for path in paths(record)}, key=lambda path: (len(path), str(path)))
    how = st.sampled_from(["replace", "replace", "replace", "nudge", "drop", "add"])
    anything = st.tuples(st.sampled_from(places), how, values())
    numbers = [path for path in places if any(type(_at(record, path)) in (int, float) for record in records)]
    if not numbers:
        return st.lists(anything, min_size=1, max_size=most)
    sizes = st.tuples(st.sampled_from(numbers), st.just("replace"), st.sampled_from(SIZES) | st.floats())
    return st.lists(anything | sizes, min_size=1, max_size=most)


def _at(record: Any, path: Path) -> Any:
    try:
        for name in path:
            record = record[name]
    except (KeyError, IndexError, TypeError):
        return None
    return record


def edited(record: Any, edits: Edits) -> Any:
    """A copy of the record, changed."""
    box = [copy.deepcopy(record)]
    for path, how, value in edits:
        *parents, last = (0, *path)
        at: Any = box
        try:
            for name in parents:
                at = at[name]
            old = at[last]
        except (KeyError, IndexError, TypeError):
            continue
        if isinstance(at, str):
            continue
        if how == "replace":
            at[last] = copy.deepcopy(value)
        elif how == "nudge":
            at[last] = _nudged(old, value)
        elif how == "drop" and at is not box:
            del at[last]
        elif isinstance(old, dict):
            old[value if isinstance(value, str) else "extra"] = copy.deepcopy(value)
        elif isinstance(old, list):
            old.append(copy.deepcopy(value))
    return box[0]


def _nudged(old: Any, value: Any) -> Any:
    """Something near the old value, of its type: what a coarse check lets pass."""
    if isinstance(old, bool):
        return not old
    if isinstance(old, int):
        return old + (value % 5 - 2 if isinstance(value, int) else 1)
    if isinstance(old, float):
        return old * (value if isinstance(value, float) else -1)
    if isinstance(old, str):
        return old[:-1] if len(old) % 2 else old + "0"
    if isinstance(old, list):
        return old[::-1] if value else old * 2
    return old


# Bytes


def byte_edits() -> st.SearchStrategy[Edits]:
    """Bits flipped, bytes put in, taken out or repeated, the end cut off."""
    how = st.sampled_from(["flip", "insert", "delete", "repeat", "cut"])
    place = st.one_of(st.integers(0, 300), st.integers(0, 1 << 16))
    return st.lists(st.tuples(place, how, st.binary(min_size=1, max_size=4)), min_size=1, max_size=4)


def edited_bytes(data: bytes, edits: Edits) -> bytes:
    """The bytes, changed."""
    for place, how, value in edits:
        at = place % (len(data) + 1)
        if how == "flip" and at < len(data):
            data = data[:at] + bytes([data[at] ^ (value[0] or 1)]) + data[at + 1 :]
        elif how == "insert":
            data = data[:at] + value + data[at:]
        elif how == "delete":
            data = data[:at] + data[at + len(value) :]
        elif how == "repeat":
            data = data[:at] + data[at : at + 64] * len(value) + data[at + 64 :]
        elif how == "cut":
            data = data[:at]
    return data


# Tensors


def _filled(value: float) -> Callable[[Tensor], Tensor]:
    # By way of float32: what is too large for a half is infinite there.
    return lambda t: torch.full(t.shape, value if t.is_floating_point() else -float(t.is_signed())).to(t.dtype)


def _one(value: float) -> Callable[[Tensor], Tensor]:
    def change(t: Tensor) -> Tensor:
        changed = t.clone().reshape(-1)
        if len(changed):
            changed[0] = value if t.is_floating_point() else -1 if t.is_signed() else 1
        return changed.reshape(t.shape)

    return change


_TENSOR_EDITS: dict[str, Callable[[Tensor], Tensor]] = {
    "scalar": lambda t: torch.zeros((), dtype=t.dtype),
    "empty": lambda t: t.reshape(-1)[:0],
    "none": lambda t: t[:0] if t.dim() else t[None],
    "flat": lambda t: t.reshape(-1),
    "deeper": lambda t: t[None],
    "shorter": lambda t: t[:-1] if t.dim() else t[None],
    "longer": lambda t: torch.cat([t, t[:1]]) if t.dim() else t[None],
    "turned": lambda t: t.transpose(0, -1).contiguous() if t.dim() else t[None],
    "one": lambda t: t.reshape(-1)[:1],
    "zero": _filled(0.0),
    "huge": _filled(3e38),
    "denormal": _filled(1e-45),
    "nan": _filled(math.nan),
    "one nan": _one(math.nan),
    "one inf": _one(math.inf),
    "one minus": _one(-1.0),
    **{
        str(kind): lambda t, kind=kind: t.to(kind)  # type: ignore[misc]
        for kind in (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool)
    },
}


def tensor_edits(names: Sequence[str]) -> st.SearchStrategy[Edits]:
    """Tensors of other shapes, types and values, missing, renamed, or too many."""
    how = st.sampled_from([*_TENSOR_EDITS, "drop", "rename", "add"])
    return st.lists(st.tuples(st.sampled_from([*names, "extra"]), how), min_size=1, max_size=2)


def edited_tensors(tensors: Mapping[str, Tensor], edits: Edits) -> dict[str, Tensor]:
    """The tensors, changed."""
    result = dict(tensors)
    for name, how in edits:
        if how == "add":
            result[f"{name}+"] = torch.zeros(3)
        elif how == "drop":
            result.pop(name, None)
        elif how == "rename" and name in result:
            result[name.upper()] = result.pop(name)
        elif name in result and how in _TENSOR_EDITS:
            result[name] = _TENSOR_EDITS[how](result[name])
    return result


def envelope(header: Any, tensors: Mapping[str, Tensor]) -> bytes:
    """`storage.pack`, for headers that it would not write."""
    own = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    return bytes(safetensors.torch.save(own, {"json": dump(header)}))
