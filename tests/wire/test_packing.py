"""Packed messages: constant sizes, rounding within a step, and nothing but a refusal for anything malformed."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError, QueryRefusedError
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.storage import pack, unpack
from private_distdd.wire.message import Message
from private_distdd.wire.packing import FORMATS, Packing
from private_distdd.wire.run import Run

INFO = DatasetInfo("tiny", 3, (1, 8, 8), (0.5,), (0.25,))
PLAN = PrivacyPlan(2.0, 0.1, 0.5, 4.0, 5, 1e-5)
UNIT = 2.0 * 0.5 / 4.0
PACKED = FORMATS[1:]
BITS = {"float32": 32, "float16": 16, "int8": 8, "int4": 4}


def message(values: torch.Tensor, form: str = "int8", unit: float = UNIT) -> Message:
    return Message("clinic", "r-1:000007", "0" * 64, values, packing=None if form == "float32" else Packing(form, unit))


@given(
    st.sampled_from(PACKED),
    st.integers(1, 3),
    st.integers(1, 9),
    st.sampled_from([1e-34, 1e-6, 0.37, 1.0, 1e30]),
    st.integers(0, 2**16),
    st.sampled_from([0.1, 1.0, 20.0]),
)
def test_what_is_read_is_what_was_packed_within_a_step(
    form: str, groups: int, columns: int, unit: float, seed: int, scale: float
) -> None:
    values = torch.randn(groups, columns, generator=torch.Generator().manual_seed(seed)) * (unit * scale)
    sent = message(values, form, unit)
    read = Message.from_bytes(sent.data)
    assert read.data == sent.data
    assert read.packing == sent.packing
    assert read.values.shape == values.shape
    units, found = values.double() / unit, read.values.double() / unit
    tiny = torch.finfo(torch.float32).tiny / unit  # below it float32 itself is coarse
    if form == "float16":
        assert torch.allclose(found, units, rtol=2**-11 + 1e-6, atol=2**-25 + tiny)
        return
    most, step = {"int8": (31.75, 0.25), "int4": (7.0, 1.0)}[form]
    assert float((found - units.clamp(-most, most)).abs().max()) <= step / 2 + 1e-5 + tiny
    assert torch.allclose(found / step, (found / step).round(), atol=1e-4)


@pytest.mark.parametrize("form", FORMATS)
def test_sizes_do_not_depend_on_values_and_are_the_bits_that_were_said(form: str) -> None:
    sizes = set()
    for factor in (0.0, 1.0, 1e10, -1e30):
        data = message(torch.full((3, 1001), factor), form).data
        assert bool(torch.isfinite(Message.from_bytes(data).values).all())  # what is too large is cut
        sizes.add(len(data))
    (size,) = sizes
    assert 0 <= size - math.ceil(1001 * BITS[form] / 8) * 3 < 600


def test_rounding_adds_as_much_to_the_noise_as_the_module_says() -> None:
    noise = torch.randn(1, 200_000, generator=torch.Generator().manual_seed(0)) * UNIT
    for form, added in (("float16", 0.0), ("int8", 1 / 16 / 12), ("int4", 1 / 12)):
        read = Message.from_bytes(message(noise, form).data).values
        assert float((read / UNIT).var()) == pytest.approx(1 + added, abs=0.02)
        assert float(((read - noise) / UNIT).square().mean()) == pytest.approx(added, rel=0.02, abs=1e-6)


def test_what_was_float32_keeps_its_bytes() -> None:
    """Old clients, ledgers and outboxes: a run and a message in the usual format say nothing of formats."""
    values = torch.arange(6.0).reshape(2, 3)
    header = {"kind": "message", "client_id": "clinic", "message_id": "r-1:000007", "query_digest": "0" * 64}
    assert message(values, "float32").data == pack(header, {"values": values})
    run = Run("r-1", INFO, PLAN)
    assert json.loads(run.to_bytes()).keys() == {"kind", "run_id", "info", "plan"}
    assert run.packing is None


@pytest.mark.parametrize("form", PACKED)
def test_a_run_names_the_format_and_it_is_part_of_the_terms(form: str) -> None:
    run = Run("r-1", INFO, PLAN, form)
    assert Run.from_bytes(run.to_bytes()) == run
    assert run.packing == Packing(form, UNIT)
    assert run.terms_digest != Run("r-1", INFO, PLAN).terms_digest
    with pytest.raises(ConfigurationError, match="without privacy"):
        Run("r-1", INFO, None, form)


@pytest.mark.parametrize("name", ["float32", "float64", "", None, 8, ["int8"]])
def test_a_run_of_another_format_is_refused(name: Any) -> None:
    record = json.loads(Run("r-1", INFO, PLAN).to_bytes()) | {"message_format": name}
    with pytest.raises(QueryRefusedError):
        Run.from_bytes(json.dumps(record).encode())


PACKING = {"form": "int8", "unit": UNIT, "columns": 3}


@pytest.mark.parametrize(
    ("packing", "values"),
    [
        (PACKING, torch.zeros(2, 4, dtype=torch.int8)),
        (PACKING, torch.zeros(3, dtype=torch.int8)),
        (PACKING, torch.zeros(2, 3)),
        (PACKING | {"form": "float16"}, torch.zeros(2, 3)),
        (PACKING | {"form": "float16"}, torch.full((2, 3), math.inf, dtype=torch.float16)),
        (PACKING | {"form": "float16"}, torch.full((2, 3), math.nan, dtype=torch.float16)),
        (PACKING | {"form": "int4"}, torch.zeros(2, 3, dtype=torch.uint8)),
        (PACKING | {"form": "int4"}, torch.zeros(2, 2, dtype=torch.int8)),
        (PACKING | {"form": "float32"}, torch.zeros(2, 3)),
        (PACKING | {"form": "int2"}, torch.zeros(2, 3, dtype=torch.int8)),
        (PACKING | {"form": ["int8"]}, torch.zeros(2, 3, dtype=torch.int8)),
        *((PACKING | {"unit": unit}, torch.zeros(2, 3, dtype=torch.int8)) for unit in (0.0, -1.0, 1, "1", None, 1e300)),
        *((PACKING | {"columns": c}, torch.zeros(2, 3, dtype=torch.int8)) for c in (-3, 3.0, "3", None, 10**400)),
        (PACKING | {"more": 1}, torch.zeros(2, 3, dtype=torch.int8)),
        ({}, torch.zeros(2, 3, dtype=torch.int8)),
        (None, torch.zeros(2, 3, dtype=torch.int8)),
        ([], torch.zeros(2, 3, dtype=torch.int8)),
    ],
)
def test_packings_that_are_none_are_refused(packing: Any, values: torch.Tensor) -> None:
    header, _ = unpack(message(torch.zeros(2, 3)).data)
    assert header["packing"] == PACKING
    if values.dtype == torch.int8:
        values = values + 1
    with pytest.raises(QueryRefusedError):
        Message.from_bytes(pack(header | {"packing": packing}, {"values": values}))
