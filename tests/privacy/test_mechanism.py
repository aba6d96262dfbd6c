"""The mechanism: exact sensitivity on the lattice, right noise and coins, and nothing else in a release."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from private_distdd.privacy.events import SampledGaussian
from private_distdd.privacy.mechanism import LATTICE, Rows, SampledGaussianMechanism, clip_to_lattice, lattice_sums
from private_distdd.privacy.randomness import InsecureRandomness, Stream, SystemRandomness

ALPHA = 1e-7

awkward = st.one_of(
    st.sampled_from(
        [0.0, -0.0, 1.0, -1.0, 1e38, -3.4028235e38, 1e-38, 1e-45, -1.4e-45, math.nan, math.inf, -math.inf, 1e-20, 0.1]
    ),
    st.floats(width=32),
)
norms = st.one_of(st.sampled_from([1e-30, 1e-10, 0.1, 1.0, 3.0, 1e10, 1e30]), st.floats(1e-30, 1e30))


def exact_square_norm(points: Tensor) -> int:
    return sum(int(k) ** 2 for k in points.tolist())


@given(st.lists(st.lists(awkward, min_size=3, max_size=3), min_size=1, max_size=6), norms)
def test_rows_on_the_lattice_are_never_too_long(values: list[list[float]], max_grad_norm: float) -> None:
    rows = torch.tensor(values, dtype=torch.float32)
    kept = rows.clone()
    points = clip_to_lattice(rows, max_grad_norm)
    assert points.dtype == torch.int64
    assert torch.equal(rows.nan_to_num(7.0), kept.nan_to_num(7.0))  # the caller's rows are left alone
    for row, own in zip(rows, points, strict=True):
        assert exact_square_norm(own) <= 2**40
        if not bool(torch.isfinite(row).all()):
            assert not own.any()
            continue
        exact = [float(v) for v in row]
        norm = math.hypot(*exact)
        factor = min(1.0, max_grad_norm / norm) if norm else 1.0
        for value, k in zip(exact, own.tolist(), strict=True):
            ideal = value * factor * (LATTICE / max_grad_norm)
            assert abs(k) <= abs(ideal) * (1 + 1e-12)  # toward zero: never longer, in no coordinate
            assert k * value >= 0
            assert abs(ideal) - abs(k) < 1 + abs(ideal) * 1e-11  # and no shorter than one lattice step
        assert torch.equal(clip_to_lattice(row[None], max_grad_norm)[0], own)  # a row depends on itself alone


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 100, 5000]), norms, st.floats(1e-3, 1e3))
def test_random_rows_keep_their_direction(seed: int, dimension: int, max_grad_norm: float, length: float) -> None:
    row = torch.randn(1, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    row = (row / row.norm() * (max_grad_norm * length)).to(torch.float32)
    if not bool(torch.isfinite(row).all()):
        return
    points = clip_to_lattice(row, max_grad_norm)
    assert exact_square_norm(points[0]) <= 2**40
    wide = row.to(torch.float64)[0]
    norm = float(wide.norm())
    if norm == 0:
        return
    clipped = wide * min(1.0, max_grad_norm / norm)
    back = points[0].to(torch.float64) * (max_grad_norm / LATTICE)
    assert float((back - clipped).abs().max()) <= max_grad_norm / LATTICE * (1 + 1e-6)
    assert bool((back.abs() <= clipped.abs() * (1 + 1e-11)).all())


def one_large_many_tiny() -> Tensor:
    # Summed in float32 the tiny squares vanish beside the large one, or pile up wrongly.
    row = torch.full((1, 300_001), 2.0**-12.5)
    row[0, 0] = 1.0
    return row


@pytest.mark.parametrize("max_grad_norm", [1e-30, 1e-3, 1.0, 1e30])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 7.0])
def test_one_large_and_300_000_tiny_coordinates(max_grad_norm: float, scale: float) -> None:
    row = one_large_many_tiny().to(torch.float64) * (max_grad_norm * scale)
    points = clip_to_lattice(row.to(torch.float32), max_grad_norm)[0]
    total = exact_square_norm(points)
    assert total <= 2**40
    if scale >= 1:
        assert total > 2**40 * 0.99  # it is clipped, not thrown away


def test_a_float32_norm_would_overshoot() -> None:
    row = one_large_many_tiny()[0]
    sequential = np.float32(0)
    for square in np.square(row.numpy()):  # as a naive kernel adds
        sequential = np.float32(sequential + square)
    factor = 1.0 / math.sqrt(float(sequential))
    clipped = row.to(torch.float64) * factor
    assert float(clipped.norm()) > 1 + 1e-4
    points = (clipped * LATTICE).trunc().to(torch.int64)
    assert exact_square_norm(points) > 2**40
    assert exact_square_norm(clip_to_lattice(row[None], 1.0)[0]) <= 2**40


@pytest.mark.parametrize(
    ("reported", "value"),
    [
        (1.0, 1.5),  # one coordinate beyond the lattice's end
        (1.0, -(2.0**43)),  # k = -2^63, whose square is 0 modulo 2^64
        (1.0, 1e30),  # no int64 at all
        (1e-30, 2.0),
        (math.nan, 1.0),
        (math.inf, 1.0),
    ],
)
def test_the_integer_check_holds_without_the_norm(
    monkeypatch: pytest.MonkeyPatch, reported: float, value: float
) -> None:
    """A3 must not rest on the floating-point norm: with a lying norm the rows still count as zero."""
    monkeypatch.setattr(torch.linalg, "vector_norm", lambda rows, **_: torch.full((len(rows), 1), reported).double())
    rows = torch.tensor([[value, 0.0], [0.1, 0.1]])
    points = clip_to_lattice(rows, 1.0)
    assert not points[0].any()
    if reported == 1.0:
        assert points[1].any()


def test_the_integer_check_cannot_wrap_around(monkeypatch: pytest.MonkeyPatch) -> None:
    # 2^24 coordinates of nearly 2^20: the sum of squares is -2^45 modulo 2^64, which looks short.
    monkeypatch.setattr(torch.linalg, "vector_norm", lambda rows, **_: torch.ones(len(rows), 1).double())
    points = clip_to_lattice(torch.ones(1, 1 << 24), 1.0)
    assert not points.any()


def test_float64_and_float16_rows() -> None:
    assert exact_square_norm(clip_to_lattice(torch.tensor([[1e200, 1.0]], dtype=torch.float64), 1.0)[0]) <= 2**40
    half = clip_to_lattice(torch.tensor([[3.0, 4.0]], dtype=torch.float16), 1.0)[0]
    assert half.tolist() == [int(0.6 * LATTICE), int(0.8 * LATTICE)]


def rows_of(points: NDArray[np.float32], groups: NDArray[np.int64], size: int) -> Iterator[Rows]:
    for start in range(0, len(points), size):
        part = torch.from_numpy(points[start : start + size])
        padding = torch.full((size - len(part), points.shape[1]), math.nan)
        yield torch.cat([part, padding]), torch.from_numpy(groups[start : start + size])


@given(st.integers(0, 2**32 - 1), st.integers(0, 30), st.sampled_from([1, 4, 8]), st.booleans())
def test_sums_are_exact_and_by_group(seed: int, n: int, micro_batch: int, ordered: bool) -> None:
    rng = np.random.default_rng(seed)
    points = (rng.standard_normal((n, 5)) * 10.0 ** rng.integers(-3, 3, (n, 1))).astype(np.float32)
    groups = rng.integers(0, 3, n)
    groups = np.sort(groups) if ordered else groups
    sums = lattice_sums(rows_of(points, groups, micro_batch), 3, 5, 0.5)
    expected = np.zeros((3, 5), dtype=object)
    for row, group in zip(points, groups, strict=True):
        expected[group] += clip_to_lattice(torch.from_numpy(row[None]), 0.5)[0].numpy().astype(object)
    assert sums.dtype == torch.int64
    assert sums.tolist() == expected.tolist()


def nothing(batch: NDArray[np.int64]) -> Iterator[Rows]:
    yield from ()


def release(mechanism: SampledGaussianMechanism, shape: tuple[int, int] = (4, 20_000)) -> NDArray[np.float64]:
    """Pure noise in units of C / b."""
    values = mechanism.measure(0, nothing, *shape, SystemRandomness())
    return values.double().numpy() / mechanism.sensitivity


def variance_p_value(z: NDArray[np.float64], sigma: float) -> float:
    statistic = float(np.sum((z / sigma) ** 2))
    return 2 * min(stats.chi2.cdf(statistic, z.size), stats.chi2.sf(statistic, z.size))


@pytest.mark.parametrize("sigma", [0.3, 1.0, 50.0])
@pytest.mark.parametrize(("max_grad_norm", "divisor"), [(0.1, 1.0), (3.0, 250.0), (1e-8, 1e5)])
def test_noise_has_the_promised_deviation(sigma: float, max_grad_norm: float, divisor: float) -> None:
    z = release(SampledGaussianMechanism(sigma, 0.1, max_grad_norm, divisor))
    assert variance_p_value(z, sigma) > ALPHA
    assert variance_p_value(z, sigma / 1.1) < ALPHA
    assert variance_p_value(z, sigma * 1.1) < ALPHA
    assert variance_p_value(z, sigma / 2) < ALPHA
    assert stats.kstest(z.ravel() / sigma, "norm").pvalue > ALPHA


def test_noise_is_white_over_coordinates_groups_and_rounds() -> None:
    mechanism = SampledGaussianMechanism(1.0, 1.0, 1.0)
    rounds = np.stack([release(mechanism, (3, 20_000)) for _ in range(4)])

    def alike(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
        return bool(stats.pearsonr(a.ravel(), b.ravel()).pvalue < ALPHA)

    pairs = [
        (rounds[:, :, :-1], rounds[:, :, 1:]),
        (rounds[:, :, :-2], rounds[:, :, 2:]),
        (rounds[:, 0], rounds[:, 1]),
        (rounds[:, 1], rounds[:, 2]),
        (rounds[0], rounds[1]),
        (rounds[1:], rounds[:-1]),
        (rounds[0], rounds[2, ::-1]),
    ]
    assert not any(alike(a, b) for a, b in pairs)
    assert not any(alike(np.abs(a), np.abs(b)) for a, b in pairs)
    assert alike(rounds[0], rounds[0] + 10 * rounds[1])  # the test can see one part in a hundred
    spectrum = np.abs(np.fft.rfft(rounds[0, 0]))[1:-1] ** 2 / rounds.shape[-1]
    assert stats.kstest(spectrum, "expon").pvalue > ALPHA


def ones(batch: NDArray[np.int64]) -> Iterator[Rows]:
    """Each example's row is a unit vector of its own."""
    rows = torch.zeros(len(batch), 400)
    rows[torch.arange(len(batch)), torch.from_numpy(batch)] = 1.0
    yield rows, torch.zeros(len(batch), dtype=torch.int64)


def batch_of(message: Tensor) -> NDArray[np.bool_]:
    return (message[0] > 0.5).numpy()


def test_coins_take_each_example_at_the_rate_anew_each_time() -> None:
    mechanism = SampledGaussianMechanism(0.01, 0.3, 1.0)
    draws = np.stack([batch_of(mechanism.measure(400, ones, 1, 400, SystemRandomness())) for _ in range(300)])
    assert stats.binomtest(int(draws.sum()), draws.size, 0.3).pvalue > ALPHA
    assert stats.binomtest(int(draws.sum()), draws.size, 0.32).pvalue < ALPHA
    sizes = draws.sum(axis=1)  # Poisson sampling: the size itself is binomial, not fixed
    spread = float(((sizes - 120) ** 2 / (400 * 0.3 * 0.7)).sum())
    assert ALPHA < stats.chi2.cdf(spread, len(sizes)) < 1 - ALPHA
    assert stats.pearsonr(draws[1:].ravel(), draws[:-1].ravel()).pvalue > ALPHA  # from round to round
    assert stats.pearsonr(draws[:, 1:].ravel(), draws[:, :-1].ravel()).pvalue > ALPHA  # between examples
    assert len({row.tobytes() for row in draws}) == len(draws)


def test_rate_one_takes_everybody() -> None:
    mechanism = SampledGaussianMechanism(0.01, 1.0, 1.0)
    for _ in range(20):
        assert batch_of(mechanism.measure(400, ones, 1, 400, SystemRandomness())).all()


def test_message_is_the_clipped_sum_over_the_public_divisor() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.3, 0.4], [6.0, 8.0], [math.nan, 0.0]])

    def statistic(batch: NDArray[np.int64]) -> Iterator[Rows]:
        yield rows[batch], torch.tensor([0, 0, 2, 2])[batch]

    mechanism = SampledGaussianMechanism(1e-6, 1.0, 1.0, divisor=10.0)
    message = mechanism.measure(4, statistic, 3, 2, SystemRandomness())
    expected = torch.tensor([[0.9, 1.2], [0.0, 0.0], [0.6, 0.8]]) / 10  # not over 2, the realised batch
    assert message.dtype == torch.float32
    assert torch.allclose(message, expected, atol=5e-6)
    assert mechanism.sensitivity == 0.1
    assert mechanism.event == SampledGaussian(1e-6, 1.0)


def test_message_is_a_function_of_the_integers_alone() -> None:
    """What leaves is round(S + N) scaled: on the lattice exactly, so low bits hold nothing but it."""
    mechanism = SampledGaussianMechanism(1.0, 1.0, 1.0)
    twin = InsecureRandomness(5)
    noise = twin.stream().rounded_normals((1, 400), LATTICE)
    message = mechanism.measure(400, ones, 1, 400, InsecureRandomness(5))
    sums = lattice_sums(ones(np.arange(400)), 1, 400, 1.0).numpy()
    assert torch.equal(message, torch.from_numpy(((sums + noise) / LATTICE).astype(np.float32)))


class Recording:
    """Notes the order of events."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def stream(self) -> Stream:
        log, stream = self.log, SystemRandomness().stream()

        class Noted(Stream):
            def __init__(self) -> None:
                log.append("key")

            def rounded_normals(self, shape: tuple[int, ...], standard_deviation: float) -> NDArray[np.int64]:
                log.append(f"noise {shape} {standard_deviation / LATTICE}")
                return stream.rounded_normals(shape, standard_deviation)

            def coins(self, count: int, probability: float) -> NDArray[np.bool_]:
                log.append(f"coins {count} {probability}")
                return stream.coins(count, probability)

        return Noted()


def test_noise_comes_before_the_data_with_a_stream_of_its_own() -> None:
    recording = Recording()

    def statistic(batch: NDArray[np.int64]) -> Iterator[Rows]:
        recording.log.append("data")
        yield from ()

    SampledGaussianMechanism(2.0, 0.5, 1.0).measure(9, statistic, 2, 3, recording)
    assert recording.log == ["key", "noise (2, 3) 2.0", "key", "coins 9 0.5", "data"]


def test_an_empty_batch_is_asked_and_sent_like_any_other() -> None:
    asked = []

    def statistic(batch: NDArray[np.int64]) -> Iterator[Rows]:
        asked.append(len(batch))
        yield torch.zeros(8, 3), torch.zeros(0, dtype=torch.int64)  # all padding

    message = SampledGaussianMechanism(1.0, 1e-12, 1.0).measure(50, statistic, 2, 3, SystemRandomness())
    assert asked == [0]
    assert message.shape == (2, 3)
    assert bool(message.all())


def test_no_two_releases_share_noise_whatever_the_seeds() -> None:
    mechanism, seen = SampledGaussianMechanism(1.0, 1.0, 1.0), set()
    for _ in range(20):
        torch.manual_seed(0), np.random.seed(0)
        seen.add(mechanism.measure(0, nothing, 1, 4, SystemRandomness()).numpy().tobytes())
    assert len(seen) == 20
