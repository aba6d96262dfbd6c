"""The secret streams: exact rounding, right law, coins, freshness, and distance from every global generator."""

from __future__ import annotations

import math
import os
import random
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from private_distdd.privacy import randomness
from private_distdd.privacy.randomness import InsecureRandomness, Stream, SystemRandomness
from tests.support.slow_normals import slow_normals

ALPHA = 1e-7  # a right build fails one test in ten million
KEY = bytes(range(32))


def exact_normals(key: bytes, count: int, standard_deviation: float, chunk: int) -> tuple[list[int], list[int]]:
    """What `rounded_normals` must give, from the same words in 256-bit arithmetic; and a plain float version.

    The documented layout: of each chunk all first words, all second words, then four words for each doubtful pair.
    Which pair is doubtful is decided here from the documented bound, written out independently.
    """
    stream, exact, plain = Stream(key), [], []
    pairs = (count + 1) // 2
    for start in range(0, pairs, chunk):
        size = min(chunk, pairs - start)
        firsts = [int(w) >> 11 for w in stream.words(size)]
        seconds = [int(w) >> 11 for w in stream.words(size)]
        for first, second in zip(firsts, seconds, strict=True):
            radius = math.sqrt(-2 * math.log((first + 1) * 2.0**-53)) if first + 1 < 2**53 else 0.0
            angle = second * (2 * math.pi * 2.0**-53)
            x = [math.cos(angle) * (radius * standard_deviation), math.sin(angle) * (radius * standard_deviation)]
            plain += [round(v) for v in x]
            bound = (
                standard_deviation * 2.0**-53 * (16 * radius + 1 / (first * 2.0**-53 * radius))
                if first and radius
                else math.inf
            )
            doubtful = any(abs(v - math.floor(v) - 0.5) <= bound for v in x)
            more = [int(w) for w in stream.words(4)] if doubtful else [2**63, 0, 2**63, 0]  # any continuation will do
            with mpmath.workprec(256):
                u = mpmath.ldexp((first << 128) + (more[0] << 64) + more[1] + 1, -181)
                turn = mpmath.ldexp((second << 128) + (more[2] << 64) + more[3], -181)
                r = mpmath.sqrt(-2 * mpmath.log(u)) * standard_deviation
                exact += [int(mpmath.nint(r * f(2 * mpmath.pi * turn))) for f in (mpmath.cos, mpmath.sin)]
    return exact[:count], plain[:count]


def test_widest_noise_is_the_exact_rounding_of_an_exact_normal(monkeypatch: pytest.MonkeyPatch) -> None:
    # At 2^40 the doubtful zone is widest: about one pair in fifty is refined, over two chunks and an odd count.
    monkeypatch.setattr(randomness, "_CHUNK", 1500)
    refined = []
    original = Stream._refined
    monkeypatch.setattr(Stream, "_refined", lambda *a: refined.append(a) or original(*a))
    found = Stream(KEY).rounded_normals((4001,), 2.0**40)
    exact, plain = exact_normals(KEY, 4001, 2.0**40, 1500)
    assert found.tolist() == exact
    assert 3 <= len(refined) <= 200
    assert plain != exact  # float64 alone is not good enough, or this test would show nothing


@pytest.mark.parametrize("standard_deviation", [1e-3, 0.7, 2.0**20, 3.7 * 2**30])
def test_rounding_is_exact_at_other_widths(standard_deviation: float) -> None:
    exact, _ = exact_normals(KEY, 400, standard_deviation, 1 << 16)
    assert Stream(KEY).rounded_normals((400,), standard_deviation).tolist() == exact


class Words(Stream):
    """A stream whose words are dictated."""

    def __init__(self, *words: int) -> None:
        self._given = list(words)

    def words(self, count: int) -> NDArray[np.uint64]:
        taken, self._given = self._given[:count], self._given[count:]
        assert len(taken) == count
        return np.array(taken, dtype=np.uint64)


def test_corners_of_the_uniforms_are_refined_and_finite() -> None:
    top = 2**64 - 1
    # First word 0: the far tail.  All refinement bits 0: the very end of it, sqrt(2 * 181 * ln 2) = 15.84.
    far = Words(0, 0, 0, 0, 0, 0).rounded_normals((2,), 1.0)
    assert far.tolist() == [16, 0]
    assert Words(0, 0, 1 << 63, 0, 0, 0).rounded_normals((2,), 1000.0)[0] == round(
        1000 * math.sqrt(2 * 54 * math.log(2))
    )
    # All ones: radius 0 in float64, refined to (almost) nothing; a doubtful pair must not pass as NaN.
    assert Words(top, 0, top, top, top, top).rounded_normals((2,), 2.0**40).tolist() == [0, 0]
    # The angle's last cell, just below a full turn.
    assert Words(1 << 63, top, top, top, top, top).rounded_normals((2,), 1.0).tolist() == [1, 0]


class Recorded(Stream):
    """A stream that says which pairs it refined; its first words may be dictated, the others are its key's."""

    def __init__(self, key: bytes, dictated: tuple[int, ...] = ()) -> None:
        super().__init__(key)
        self._dictated, self.refined = np.array(dictated, dtype=np.uint64), []

    def words(self, count: int) -> NDArray[np.uint64]:
        given, self._dictated = self._dictated[:count], self._dictated[count:]
        return np.concatenate([given, super().words(count - len(given))])

    def _refined(self, first: int, second: int, standard_deviation: float) -> tuple[int, int]:
        self.refined.append((first, second))
        return super()._refined(first, second, standard_deviation)


def same(
    key: bytes, count: int, standard_deviation: float, chunk: int, block: int, dictated: tuple[int, ...] = ()
) -> bool:
    """Whether the sieve changes no integer, no choice of pairs to refine, and no word after them."""
    fast, slow = Recorded(key, dictated), Recorded(key, dictated)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(randomness, "_CHUNK", chunk)
        patch.setattr(randomness, "_BLOCK", block)
        found = fast.rounded_normals((count,), standard_deviation)
    expected = slow_normals(slow, count, standard_deviation, chunk)
    return (
        np.array_equal(found, expected)
        and fast.refined == slow.refined
        and np.array_equal(fast.words(1), slow.words(1))
    )


widths = st.floats(math.log2(1e-3), 40).map(lambda bits: 2.0**bits)


@given(
    key=st.binary(min_size=32, max_size=32),
    pieces=st.sampled_from([(1, 1), (7, 3), (500, 500), (500, 128), (512, 256), (1500, 4000)]),
    chunks=st.integers(0, 3),
    more=st.integers(-1, 1) | st.integers(0, 1000),
    standard_deviation=widths | st.floats(30, 38).map(lambda bits: 2.0**bits),  # some pairs certain, some refined
)
def test_sieved_normals_are_the_slow_ones(
    key: bytes, pieces: tuple[int, int], chunks: int, more: int, standard_deviation: float
) -> None:
    assert same(key, max(0, chunks * 2 * pieces[0] + more), standard_deviation, *pieces)


@pytest.mark.parametrize("count", [131_071, 131_072, 131_073, 300_001])
@pytest.mark.parametrize("standard_deviation", [2.0**20, 2.0**36])
def test_sieved_normals_are_the_slow_ones_at_the_real_sizes(count: int, standard_deviation: float) -> None:
    assert same(KEY, count, standard_deviation, randomness._CHUNK, randomness._BLOCK)


# Words at all distances from both ends, of the uniforms and of the arcs: what random keys hardly ever draw.
near_an_end = st.builds(
    lambda word, bits, end: (word >> bits) ^ (end * (2**64 - 1)),
    st.integers(0, 2**64 - 1),
    st.integers(0, 53),
    st.integers(0, 1),
)
near_an_arc_s_end = st.builds(
    lambda arc, word: ((arc << 52) + word) % 2**64,
    st.integers(0, 2**12 - 1),
    near_an_end.map(lambda word: (word >> 12) - 2**52 * (word >> 63)),
)


@given(
    words=st.lists(st.tuples(near_an_end, near_an_end | near_an_arc_s_end), min_size=1, max_size=50),
    standard_deviation=widths,
)
def test_sieved_normals_are_the_slow_ones_at_the_ends(words: list[tuple[int, int]], standard_deviation: float) -> None:
    dictated = tuple(first for first, _ in words) + tuple(second for _, second in words)
    assert same(KEY, 2 * len(words), standard_deviation, 1 << 16, 1 << 14, dictated)


def same_in_hard_cases() -> bool:
    # Uniforms next to 1, next to 0, and where the sieve trusts itself at the plain evaluation's widest doubt.
    firsts = *range(2**64 - 2**17, 2**64, 2**11), *range(2**40, 2**44, 2**38), *range(2**48, 2**49, 2**41)
    dictated = firsts + tuple(int(word) for word in Stream(KEY).words(len(firsts)))
    at_the_ends = same(KEY, 2 * len(firsts), 2.0**34, 1 << 16, 1 << 14, dictated)
    return at_the_ends and same(KEY, 40_000, 2.0**34, 1 << 16, 1 << 14)


def test_sieved_normals_are_the_slow_ones_in_hard_cases() -> None:
    assert same_in_hard_cases()


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("_SLACK", 0.0),  # nothing is refined
        ("_SLACK", 2.0**-43),  # not all that is doubtful
        ("_LEAST", 1 << 12),  # a tail whose doubt is wider than the slack is certain
        ("_MOST", 1 << 53),  # so is a radius of 0
        ("_MIDDLES", randomness._MIDDLES.conj()),
        ("_MIDDLES", np.exp(2j * math.pi * np.arange(4096) / 4096)),
    ],
)
def test_a_wrong_sieve_is_seen(monkeypatch: pytest.MonkeyPatch, name: str, wrong: object) -> None:
    monkeypatch.setattr(randomness, name, wrong)
    assert not same_in_hard_cases()


def test_the_sieve_is_as_exact_as_its_proof_says() -> None:
    # So wide that the rounding to integers is small against the errors: a unit is 2^-52 standard deviations.
    width, n = 2.0**52, 200_000
    first, second = (Stream(KEY).words(2 * n) >> np.uint64(11)).reshape(2, n)
    second[: n // 2] &= np.uint64(0xFFF << 41)  # the ends of the arcs, where the error is largest
    out = np.empty((n, 2), dtype=np.int64)
    randomness._sieve(first, second, width, out)
    plain, _ = randomness._plain(first, second, width)
    radius = np.sqrt(-2 * np.log((first + np.uint64(1)) * 2.0**-53))
    worst = float((2 * (np.abs(out - plain) - 1) / radius[:, None]).max())  # in 2^-53 radius
    assert 100 < worst <= 166


@pytest.mark.parametrize("shape", [(0,), (1,), (7, 0), (3, 5), ()])
def test_shapes(shape: tuple[int, ...]) -> None:
    noise = Stream(KEY).rounded_normals(shape, 100.0)
    assert noise.shape == shape
    assert noise.dtype == np.int64


def normal_p_value(noise: NDArray[np.int64], standard_deviation: float) -> float:
    """Two-sided chi-square test of the variance about 0."""
    statistic = float(np.sum((noise / standard_deviation) ** 2))
    return 2 * min(stats.chi2.cdf(statistic, noise.size), stats.chi2.sf(statistic, noise.size))


def test_law_of_the_noise() -> None:
    n, sigma = 1_000_000, 2.0**20
    noise = SystemRandomness().stream().rounded_normals((n,), sigma)
    z = noise / sigma
    assert normal_p_value(noise, sigma) > ALPHA
    assert normal_p_value(noise, sigma / 1.1) < ALPHA
    assert normal_p_value(noise, sigma * 1.01) < ALPHA
    assert stats.kstest(z, "norm").pvalue > ALPHA
    assert stats.kstest(z, "norm", args=(0.0, 1.02)).pvalue < ALPHA
    assert stats.kstest(z, "norm", args=(0.02, 1.0)).pvalue < ALPHA
    assert stats.kstest(z, "t", args=(30,)).pvalue < ALPHA
    limit = stats.norm.isf(ALPHA / 2)
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):  # Var z^k = E z^2k - (E z^k)^2
        assert abs(np.mean(z**power) - expected) < limit * math.sqrt(variance / n), f"moment {power}"
    for edge in (2.0, 3.0, 4.0):
        share = 2 * stats.norm.sf(edge)
        beyond = int(np.sum(np.abs(z) > edge))
        assert min(stats.binom.cdf(beyond, n, share), stats.binom.sf(beyond - 1, n, share)) > ALPHA, f"tail {edge}"
    # Low bits carry nothing: even and odd are equally frequent, and so are all residues modulo 16.
    assert stats.chisquare(np.bincount(noise & 15, minlength=16)).pvalue > ALPHA


def test_pairs_of_box_and_muller_are_independent() -> None:
    noise = SystemRandomness().stream().rounded_normals((400_000, 2), 2.0**20).astype(np.float64)
    for a, b in ((noise[:, 0], noise[:, 1]), (noise[:, 0] ** 2, noise[:, 1] ** 2), (noise[:-1, 1], noise[1:, 0])):
        assert stats.pearsonr(a, b).pvalue > ALPHA
    assert stats.pearsonr(noise[:, 0] ** 2, noise[:, 0] ** 2 + noise[:, 1] ** 2).pvalue < ALPHA


def test_small_deviation_has_the_law_of_a_rounded_normal() -> None:
    noise = SystemRandomness().stream().rounded_normals((200_000,), 0.6)
    support = np.arange(-2, 3)
    probabilities = stats.norm.cdf(support + 0.5, scale=0.6) - stats.norm.cdf(support - 0.5, scale=0.6)
    inside = noise[np.abs(noise) <= 2]
    expected = probabilities / probabilities.sum() * inside.size
    assert stats.chisquare(np.bincount(inside + 2, minlength=5), expected).pvalue > ALPHA
    # Truncation toward zero, the classic mistake, has another law.
    wrong = np.trunc(np.random.default_rng(0).normal(0, 0.6, 200_000)).astype(np.int64)
    wrong = wrong[np.abs(wrong) <= 2]
    counts = np.bincount(wrong + 2, minlength=5)
    assert stats.chisquare(counts, probabilities / probabilities.sum() * wrong.size).pvalue < ALPHA


def test_mpmath_s_precision_is_never_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is one for the whole process: set and put back by two threads at once, it was left at 256 bits."""
    touched, kind = [], type(mpmath.mp)
    precision = next(vars(base)["prec"] for base in kind.__mro__ if "prec" in vars(base))

    def watched(context: Any, bits: int) -> None:
        if context is mpmath.mp:
            touched.append(bits)
        precision.fset(context, bits)

    monkeypatch.setattr(kind, "prec", property(precision.fget, watched))
    refined: list[int] = []
    real = Stream._refined
    monkeypatch.setattr(Stream, "_refined", lambda own, *pair: refined.append(1) or real(own, *pair))
    InsecureRandomness(0).stream().rounded_normals((4000,), 2.0**40)  # so wide that some pairs are refined
    assert refined
    assert touched == []
    with mpmath.workprec(60):
        assert touched == [60]  # and the watch works


def test_words_are_the_key_stream_of_aes_256_ctr() -> None:
    # NIST SP 800-38A gives no all-zero counter; AES-256 of a zero block under a zero key is FIPS-197-checkable.
    assert Stream(bytes(32)).words(2).tobytes().hex() == "dc95c078a2408989ad48a21492842087"
    whole = Stream(KEY).words(100)
    parts = Stream(KEY)
    assert np.array_equal(np.concatenate([parts.words(n) for n in (1, 2, 0, 30, 67)]), whole)


@pytest.mark.parametrize("key", [bytes(16), bytes(31), bytes(64)])
def test_no_other_key_length(key: bytes) -> None:
    if len(key) == 16:
        Stream(key)  # AES-128 would be accepted by the cipher: the sources below never ask for it
        return
    with pytest.raises(ValueError, match=r"[Kk]ey"):
        Stream(key)


def test_every_system_stream_has_its_own_256_bit_key(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(os, "urandom", lambda n: asked.append(n) or bytes([len(asked)]) * n)
    source = SystemRandomness()
    assert not np.array_equal(source.stream().words(8), source.stream().words(8))
    assert asked == [32, 32]


@given(st.floats(min_value=1e-30, max_value=1, exclude_max=True))
def test_coins_round_the_probability_down(probability: float) -> None:
    threshold = math.floor(Fraction(probability) * 2**64)
    if threshold > 0:
        assert Words(threshold - 1).coins(1, probability).tolist() == [True]
    assert Words(threshold).coins(1, probability).tolist() == [False]  # never above q
    assert Words(2**64 - 1).coins(1, probability).tolist() == [False]


def test_certain_coins_are_certain() -> None:
    assert Words().coins(1000, 1.0).all()
    assert Words().coins(3, 1).all()
    assert Stream(KEY).coins(0, 0.5).shape == (0,)
    assert not Words(2**64 - 1).coins(1, math.nextafter(1.0, 0.0)).any()


@pytest.mark.parametrize("rate", [0.5, 0.1, 0.001, 0.999])
def test_rate_of_the_coins(rate: float) -> None:
    n = 1_000_000
    heads = int(SystemRandomness().stream().coins(n, rate).sum())
    assert stats.binomtest(heads, n, rate).pvalue > ALPHA
    wrong = rate * 1.3 if rate < 0.9 else 0.998
    assert stats.binomtest(heads, n, wrong).pvalue < ALPHA


def test_global_generators_are_neither_read_nor_moved() -> None:
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    streams = [SystemRandomness().stream(), InsecureRandomness(3).stream()]
    first = [(s.rounded_normals((50,), 2.0**20), s.coins(50, 0.5)) for s in streams]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    again = SystemRandomness().stream().rounded_normals((50,), 2.0**20)
    assert not np.array_equal(again, first[0][0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork here")
def test_a_forked_child_draws_other_noise() -> None:
    source = SystemRandomness()
    source.stream().words(1)  # whatever state there is, it exists before the fork
    read, write = os.pipe()
    child = _fork()
    if child == 0:
        os.write(write, source.stream().words(8).tobytes())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(read, 64)
    assert len(theirs) == 64
    assert theirs != source.stream().words(8).tobytes()


def _fork() -> int:
    import warnings

    with warnings.catch_warnings():  # Python 3.12 warns of threads; the child only draws and leaves
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def test_insecure_streams_are_reproducible() -> None:
    a, b, c = InsecureRandomness(7), InsecureRandomness(7), InsecureRandomness(8)
    first = [source.stream().words(4).tolist() for source in (a, b, c)]
    assert first[0] == first[1] != first[2]
    assert a.stream().words(4).tolist() != first[0]  # the next stream is another one
