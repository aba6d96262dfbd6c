"""Public weights follow from their seed, whatever other threads do, and the default generator is left as it was."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from private_distdd.networks.seeding import default_generator
from private_distdd.networks.spec import ModelSpec

SPEC = ModelSpec("mlp", {"width": 64, "depth": 3})


def first_weights(seed: int) -> bytes:
    state = SPEC.build((1, 16, 16), 10, seed).state_dict()
    return b"".join(tensor.numpy().tobytes() for tensor in state.values())


def test_threads_draw_each_their_own_weights() -> None:
    seeds = [number % 8 for number in range(160)]
    alone = [first_weights(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(first_weights, seeds)) == [alone[seed] for seed in seeds]


@pytest.mark.parametrize("seed", [None, 3])
def test_the_default_generator_is_left_as_it_was_after_an_error_too(seed: int | None) -> None:
    def draw_and_fail() -> None:
        with default_generator(seed):
            torch.rand(5)
            raise RuntimeError("stop")

    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="stop"):
        draw_and_fail()
    assert torch.equal(torch.get_rng_state(), before)
