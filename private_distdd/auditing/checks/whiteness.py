"""Is a sequence standard normal, and independent throughout?  Exact laws and bounds, for noise that an audit reads.

Every test gives what it saw and a bound on the probability to see that or more where the noise is right, over all it
looked at: so a few of them share an audit's level, however many blocks, pairs and lags they compare.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft, special, stats

Values: TypeAlias = NDArray[np.float64]
Test: TypeAlias = tuple[str, float]
"""What was seen, in words, and its probability at most."""

_BLOCK = 1 << 14  # values whose scale is tested together
_TILTS = np.linspace(0.0, 0.4999, 2000)


def findings(tests: Sequence[Test], alpha: float) -> tuple[str, ...]:
    """What is refuted at `alpha` by Bonferroni; a probability that is no number counts as refuted."""
    return tuple(text for text, p in tests if not p >= alpha / len(tests))


def scale(squares: Values, degrees: int | NDArray[np.int64], names: Sequence[str]) -> Test:
    """Sums of squares of standard normals, [n], against chi^2 of so many degrees of freedom, two-sided."""
    p = 2 * np.minimum(stats.chi2.cdf(squares, degrees), stats.chi2.sf(squares, degrees))
    p = np.where(np.isnan(p), 0.0, p)
    worst = int(np.argmin(p))
    seen = math.sqrt(float((squares / degrees)[worst]))
    return f"{names[worst]}: noise of {seen:.4g} times the claimed scale", min(1.0, len(p) * float(p[worst]))


def pairs(rows: Values, names: Sequence[str]) -> Test:
    """The largest correlation of two of `rows`, [n, d], by Pearson's exact law for Gaussians."""
    correlations = torch.corrcoef(torch.from_numpy(rows))  # by torch, which keeps to the threads that it was given
    r = np.triu(correlations.abs().nan_to_num(0.0).numpy(), 1)
    one, other = divmod(int(np.argmax(r)), len(rows))
    p = float(stats.beta.sf(min(1.0, float(r[one, other]) ** 2), 0.5, rows.shape[1] / 2 - 1))
    count = len(rows) * (len(rows) - 1) // 2
    return f"{names[one]} and {names[other]}: correlation {r[one, other]:.3f}", min(1.0, count * p)


def shape(values: Values) -> Test:
    """The distribution of `values`, [n], against the normal one: the bound of Dvoretzky, Kiefer, Wolfowitz, Massart."""
    cdf = special.ndtr(np.sort(values))
    steps = np.arange(len(values) + 1) / len(values)
    distance = float(np.max(np.maximum(cdf - steps[:-1], steps[1:] - cdf)))
    bound = min(1.0, 2 * math.exp(-2 * len(values) * distance**2))
    return f"noise that is not Gaussian: its distribution is off by {distance:.4f}", bound


def extreme(values: Values) -> Test:
    """The largest size among `values`, [n], by its exact law, two-sided: a tail that is cut, or too heavy."""
    largest = float(np.max(np.abs(values)))
    below = len(values) * math.log1p(-2 * float(special.ndtr(-largest))) if largest > 0 else -math.inf
    p = 2 * min(math.exp(below), -math.expm1(below))
    return f"noise whose largest value is {largest:.3f} standard deviations", min(1.0, p)


def lags(values: Values, what: str) -> Test:
    """The largest autocovariance of `values`, [n], over all lags: periods and neighbours that know one another.

    Chernoff: for independent standard normals S = sum of x_i x_(i+k) has E e^(tS) <= r^(-n/2) with
    r = (1 + sqrt(1 - 4 t^2)) / 2, for every k: the matrix of S is that of k paths, and the determinant of 1 - 2 t times
    it is at least r^n.
    """
    n = len(values)
    size = fft.next_fast_len(2 * n, real=True)
    spectrum = fft.rfft(values, size)
    products = fft.irfft(spectrum.real**2 + spectrum.imag**2, size)[1:n]
    worst = int(np.argmax(np.abs(products)))  # an entry that is no number is the largest to argmax
    seen = abs(float(products[worst])) / n
    rate = float(np.max(_TILTS * seen + 0.5 * np.log((1 + np.sqrt(1 - 4 * _TILTS**2)) / 2)))
    return f"{what} {worst + 1} values apart: correlation {seen:.3f}", min(1.0, 2 * (n - 1) * math.exp(-n * rate))


def sizes(values: Values) -> Values:
    """The sizes |x| of standard normals, made standard normal again: what is the same up to its sign shows here."""
    tails = np.clip(special.erfc(np.abs(values) / math.sqrt(2)), 1e-300, 1 - 2.0**-53)
    return np.asarray(-special.ndtri(tails))


def whole(values: Values, what: str) -> Iterator[Test]:
    """Scale by blocks of 16,384 values, distribution, tail, and all lags, of one flattened message, [n]."""
    starts = np.arange(0, len(values), _BLOCK)
    lengths = np.diff(np.append(starts, len(values)))
    names = [f"{what}, values from {start:,} on" for start in starts]
    yield scale(np.add.reduceat(values**2, starts), lengths, names)
    for text, p in (shape(values), extreme(values), lags(values, "noise"), lags(sizes(values), "sizes of noise")):
        yield f"{what}: {text}", p


def blocks(rows: Values, names: Sequence[str], parts: Mapping[str, slice]) -> Iterator[Test]:
    """Scale of every block of columns of `rows`, [n, d], over all rows, and in every row."""
    squares = np.stack([(rows[:, part] ** 2).sum(axis=1) for part in parts.values()], axis=1)
    widths = np.array([rows[:, part].shape[1] for part in parts.values()])
    yield scale(squares.sum(axis=0), widths * len(rows), [f"block {part!r}" for part in parts])
    yield scale(
        squares.reshape(-1),
        np.tile(widths, len(rows)),
        [f"{name}, block {part!r}" for name in names for part in parts],
    )


def crossed(coins: NDArray[np.bool_], values: Values, what: str) -> Test:
    """Noise `values`, [n], beside coins, [n], at every cyclic lag: given coins, each sum is exactly normal."""
    centred = coins - coins.mean()
    norm = float(np.sqrt((centred**2).sum()))
    sums = fft.irfft(fft.rfft(values) * np.conj(fft.rfft(centred)), len(values)) / max(norm, 1e-300)
    largest = float(np.max(np.abs(sums)))
    p = min(1.0, 2 * len(values) * float(special.ndtr(-largest)))
    return f"{what} depends on coins: {largest:.1f} standard deviations", p
