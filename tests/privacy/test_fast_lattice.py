"""The lattice in blocks against its slow form: equal to the bit, whatever the rows hold."""

from __future__ import annotations

import math

import pytest
import slow_lattice
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from private_distdd.privacy import mechanism
from private_distdd.privacy.mechanism import clip_to_lattice, lattice_sums

SPECIAL = [0.0, math.nan, math.inf, -math.inf, 1e-45, 1e-30, 3e38, -3e38, 1.0]


@settings(max_examples=150)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 70),
    st.sampled_from([1, 2, 7, 64, 1000, 32_768, 32_769, 70_000]),
    st.integers(1, 5),
    st.sampled_from([1e-12, 1e-3, 0.3, 1.0, 17.0, 1e12]),
    st.lists(st.tuples(st.integers(0, 69), st.integers(0, 10**9), st.sampled_from(SPECIAL)), max_size=8),
)
def test_blocks_give_the_bits_of_the_slow_form(
    seed: int, count: int, dimension: int, num_groups: int, c: float, special: list[tuple[int, int, float]]
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = min(70, max(1, 2**20 // dimension))
    sizes = torch.randint(-30, 30, (rows, 1), generator=generator)
    micro_batch = torch.randn((rows, dimension), generator=generator) * 2.0**sizes
    for row, column, value in special:
        micro_batch[row % rows, column % dimension] = value
    groups = torch.randint(num_groups, (min(count, rows),), generator=generator)
    assert torch.equal(clip_to_lattice(micro_batch, c), slow_lattice.clip_to_lattice(micro_batch, c))
    batches = [(micro_batch, groups), (micro_batch.flip(0), groups), (micro_batch, groups[:0])]
    found = lattice_sums(batches, num_groups, dimension, c)
    assert torch.equal(found, slow_lattice.lattice_sums(batches, num_groups, dimension, c))
    few = lattice_sums([(micro_batch[: len(groups)], groups)], num_groups, dimension, c)  # without padding
    assert torch.equal(few, lattice_sums(batches[:1], num_groups, dimension, c))


def test_rows_just_within_and_just_beyond_the_norm() -> None:
    """Where truncation decides: rows of norms a few units in the last place from C, and multiples of the lattice."""
    c = 1.0
    near = torch.tensor([[c * (1 + k * 2.0**-23), 0.0] for k in range(-8, 9)])
    whole = torch.arange(-8, 9).to(torch.float32)[:, None] * torch.tensor([[2.0**-20, 2.0**-19]])
    rows = torch.cat([near, whole, whole + 2.0**-44])
    assert torch.equal(clip_to_lattice(rows, c), slow_lattice.clip_to_lattice(rows, c))


@pytest.mark.parametrize("block", [1, 100, 10**6])
def test_the_block_s_size_changes_nothing(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    rows = torch.randn((65, 77), generator=torch.Generator().manual_seed(1)) * 10
    expected = slow_lattice.clip_to_lattice(rows, 1.0)
    monkeypatch.setattr(mechanism, "_BLOCK", block)
    assert torch.equal(clip_to_lattice(rows, 1.0), expected)


def test_a_wrong_lattice_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn((64, 50), generator=torch.Generator().manual_seed(2))
    expected = slow_lattice.clip_to_lattice(rows, 1.0)
    monkeypatch.setattr(mechanism, "LATTICE", (1 << 20) + 1)
    assert not torch.equal(clip_to_lattice(rows, 1.0), expected)
