"""The scattering transform: features of an image that nobody has to learn, so that they cost no privacy.

All between two moduli is linear, and is computed as products with small matrices: of sides as short as these, Fourier
transforms by matrices are faster than fast ones.  Values lie as [rows, columns, many], with the images last, so that a
product has one matrix for all of them.  A complex plane's columns are its real parts', then its imaginary parts'.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

ANGLES = 8
CHANNELS = 1 + 2 * ANGLES + ANGLES**2  # of one colour: the mean, two scales of wavelets, and wavelets of wavelets
STRIDE = 4  # pixels between two features: 2^J, of J = 2 scales
SMALLEST = 5  # pixels a side: fewer cannot be reflected over the border
_AT_ONCE = 16  # grey images, at most: more do not fit a cache
_TINY = 1e-30  # under the root of a modulus: its derivative is 0 at 0, and never above 1
_PI = 3.1415  # in the height of a filter, as in Kymatio


class Scattering(nn.Module):
    """Scattering coefficients of order 0, 1 and 2, with Morlet wavelets of 2 scales and 8 angles.

    Each colour of each image is treated by itself: x * phi, |x * psi_i| * phi and ||x * psi_i| * psi_k| * phi, for all
    wavelets psi_i and all psi_k of a coarser scale; phi is a Gaussian, and every fourth pixel is kept.  Images are
    reflected over their borders, up to a multiple of 4 pixels that is 5 to 8 larger.  Filters, borders and the order of
    channels are those of Kymatio's `Scattering2D(J=2, L=8)`.  There is nothing to learn or to save.

    Args:
        height, width: pixels, >= `SMALLEST`.

    Source: Bruna and Mallat 2013; Andreux et al. 2020 (Kymatio).
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        borders = _border(height), _border(width)
        high, wide = sides = len(borders[0]), len(borders[1])
        self.transform = _Along(
            _from_real(_fourier(high) @ borders[0].to(torch.complex128)),
            _planes(_fourier(wide) @ borders[1].to(torch.complex128)),
        )
        self.fine, self.coarse = _Moduli(sides, 0), _Moduli(sides, 1)
        self.transform_fine = _Along(_from_real(_fourier(high)), _planes(_fourier(wide)))
        self.average = _Along(*(_gaussian(side, 0) @ border for side, border in zip(sides, borders, strict=True)))
        self.average_fine = _Along(_gaussian(high, 0), _gaussian(wide, 0))
        self.average_coarse = _Along(_gaussian(high, 1), _gaussian(wide, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Float [n, C, height, width] -> [n, C, 81, height // 4, width // 4]."""
        colours = images.shape[1]
        # A power of two, so that the parts of a micro-batch have one size: no image's bits may depend on its part.
        size = 1 << max(1, _AT_ONCE // colours).bit_length() - 1 if images.is_cpu else max(1, len(images))
        features = torch.cat([self._of_grey(part.flatten(0, 1)) for part in torch.split(images, size)])
        return features.view(len(images), colours, *features.shape[1:])

    def _of_grey(self, images: Tensor) -> Tensor:
        """Float [n, height, width] -> [n, 81, height // 4, width // 4]."""
        count, images = len(images), images.permute(1, 2, 0)
        spectrum = self.transform(images)
        fine, coarse = self.fine(spectrum), self.coarse(spectrum)
        twice = self.coarse(self.transform_fine(fine))
        means = (self.average(images), self.average_fine(fine), self.average_coarse(coarse), self.average_coarse(twice))
        zero, one, two, pairs = (mean.unflatten(-1, (-1, count)) for mean in means)
        pairs = pairs.unflatten(2, (ANGLES, ANGLES)).transpose(2, 3).flatten(2, 3)  # by the first wavelet first
        return torch.cat([zero, one, two, pairs], dim=2).permute(3, 2, 0, 1)


class _Along(nn.Module):
    """One matrix along the rows, and one along the columns."""

    def __init__(self, rows: Tensor, columns: Tensor) -> None:
        super().__init__()
        self._rows: Tensor
        self._columns: Tensor
        self.register_buffer("_rows", rows.to(torch.float32), persistent=False)
        self.register_buffer("_columns", columns.to(torch.float32), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        many = values.shape[-1]
        moved = self._rows @ values.reshape(self._rows.shape[1], -1)
        return self._columns @ moved.view(-1, self._columns.shape[1], many)


class _Moduli(nn.Sequential):
    """|x * psi| for the 8 wavelets of one scale, at every 2^scale-th pixel, of x's transform: [P', Q', 8 many]."""

    def __init__(self, sides: tuple[int, int], scale: int) -> None:
        rows, columns = (_fourier(side >> scale).conj() / (side >> scale) for side in sides)
        super().__init__(_Wavelets(sides, scale), _Along(_planes(rows, last=True), _planes(columns)), _Modulus())


class _Wavelets(nn.Module):
    """Transforms times those of the wavelets of one scale; to keep every 2^scale-th pixel is to add up frequencies."""

    def __init__(self, sides: tuple[int, int], scale: int) -> None:
        super().__init__()
        self._step = step = 1 << scale
        self._sides = high, wide = sides[0] // step, sides[1] // step
        wavelets = torch.stack([_morlet(sides, scale, angle) for angle in range(ANGLES)], dim=-1) / step**2
        folds = wavelets.view(step, high, step, wide, ANGLES, 1).transpose(1, 2)
        self._folds: Tensor
        self.register_buffer(
            "_folds", folds.flatten(0, 1).unsqueeze(2).contiguous().to(torch.float32), persistent=False
        )

    def forward(self, spectrum: Tensor) -> Tensor:
        step, (high, wide), many = self._step, self._sides, spectrum.shape[-1]
        whole = spectrum.view(step, high, 2, step, wide, 1, many)
        folds = [whole[i, :, :, j] for i in range(step) for j in range(step)]
        products = folds[0] * self._folds[0]
        for wavelets, fold in zip(self._folds[1:], folds[1:], strict=True):
            products = torch.addcmul(products, fold, wavelets)
        return products.view(high, 2 * wide, ANGLES * many)


class _Modulus(nn.Module):
    def forward(self, waves: Tensor) -> Tensor:
        real, imaginary = waves.chunk(2, dim=1)
        return (torch.addcmul(real.square(), imaginary, imaginary) + _TINY).sqrt()


def _border(side: int) -> Tensor:
    """The matrix that reflects a side over its ends, float64 [padded side, side]."""
    padded = ((side + STRIDE) // STRIDE + 1) * STRIDE
    places = (torch.arange(padded) - (padded - side) // 2).abs()
    places = side - 1 - (side - 1 - places).abs()
    return (places[:, None] == torch.arange(side)).to(torch.float64)


def _fourier(side: int) -> Tensor:
    """The matrix of the Fourier transform, complex128 [side, side]."""
    numbers = torch.arange(side, dtype=torch.float64)
    turns = torch.outer(numbers, numbers).remainder(side) / side
    return torch.polar(torch.ones_like(turns), -2 * math.pi * turns)


def _planes(matrix: Tensor, last: bool = False) -> Tensor:
    """A complex matrix [m, n] for vectors of real, then imaginary parts: [2 m, 2 n]; or, `last`, of pairs of them."""
    blocks = torch.stack([torch.stack([matrix.real, -matrix.imag]), torch.stack([matrix.imag, matrix.real])])
    return blocks.permute(*((2, 0, 3, 1) if last else (0, 2, 1, 3))).reshape(2 * len(matrix), -1)


def _from_real(matrix: Tensor) -> Tensor:
    """A complex matrix [m, n] that makes pairs out of real values: [2 m, n]."""
    return _planes(matrix, last=True)[:, ::2]


def _gabor(sides: tuple[int, int], sigma: float, slant: float, angle: float, frequency: float) -> Tensor:
    """A wave under a Gaussian, sigma along the wave and sigma / slant across it, on a torus: complex [P, Q]."""
    down, right = (torch.arange(-2 * side, 3 * side, dtype=torch.float64) for side in sides)
    along = math.cos(angle) * down[:, None] + math.sin(angle) * right
    across = math.cos(angle) * right - math.sin(angle) * down[:, None]
    height = torch.exp(-(along**2 + (slant * across) ** 2) / (2 * sigma**2)) * slant / (2 * _PI * sigma**2)
    wave = torch.polar(height, frequency * along)
    return wave.view(5, sides[0], 5, sides[1]).sum((0, 2))


def _morlet(sides: tuple[int, int], scale: int, angle: int) -> Tensor:
    """The transform, which is real, of a wavelet: a Gabor wave, less what of its Gaussian makes its sum 0."""
    shape = 0.8 * 2**scale, 4 / ANGLES, (ANGLES // 2 - 1 - angle) * math.pi / ANGLES
    wave, gaussian = (_gabor(sides, *shape, frequency) for frequency in (0.75 * math.pi / 2**scale, 0.0))
    transform: Tensor = torch.fft.fft2(wave - wave.sum() / gaussian.sum() * gaussian)
    return transform.real


def _gaussian(side: int, scale: int) -> Tensor:
    """The average over one side as a matrix [side / 4 - 2, side / 2^scale].

    At the coarser scale the Gaussian has lost its frequencies above that scale's, as in Kymatio.
    """
    sigma = 1.6
    places = torch.arange(-2 * side, 3 * side, dtype=torch.float64)
    values = torch.exp(-(places**2) / (2 * sigma**2)).view(5, side).sum(0) / (math.sqrt(2 * _PI) * sigma)
    coarse, step = side >> scale, STRIDE >> scale
    spectrum = torch.fft.rfft(values)[: coarse // 2 + 1]
    kept: Tensor = torch.fft.irfft(spectrum, n=coarse)
    shifts = torch.arange(step, coarse - step, step)[:, None] - torch.arange(coarse)
    return kept[shifts % coarse]
