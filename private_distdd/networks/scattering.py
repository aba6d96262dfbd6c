"""The scattering transform: features of an image that nobody has to learn, so that they cost no privacy."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ANGLES = 8
CHANNELS = 1 + 2 * ANGLES + ANGLES**2  # of one colour: the mean, two scales of wavelets, and wavelets of wavelets
STRIDE = 4  # pixels between two features: 2^J, of J = 2 scales
SMALLEST = 5  # pixels a side: fewer cannot be reflected over the border
_TINY = 1e-30  # under the root of a modulus: its derivative is 0 at 0, and never above 1
_PI = 3.1415  # in the height of a filter, as in Kymatio


class Scattering(nn.Module):
    """Scattering coefficients of order 0, 1 and 2, with Morlet wavelets of 2 scales and 8 angles.

    Each colour of each image is treated by itself: x * phi, |x * psi_i| * phi and ||x * psi_i| * psi_k| * phi, for all
    wavelets psi_i and all psi_k of the other, coarser scale; phi is a Gaussian, and every fourth pixel is kept.
    Images are reflected over their borders, as far as a multiple of 4 and another 4 pixels ask for.  Filters, borders
    and the order of channels are those of Kymatio's `Scattering2D(J=2, L=8)`.  There is nothing to learn or to save.

    Args:
        height, width: pixels, >= `SMALLEST`.

    Source: Bruna and Mallat 2013; Andreux et al. 2020 (Kymatio).
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        sides = _padded(height), _padded(width)
        above, left = (sides[0] - height) // 2, (sides[1] - width) // 2
        self._border = left, sides[1] - width - left, above, sides[0] - height - above
        self.fine = _Moduli(sides, 0)
        self.coarse = _Moduli(sides, 1)
        self.average_fine = _Average(sides, 0)
        self.average_coarse = _Average(sides, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Float [n, C, height, width] -> [n, C, 81, height // 4, width // 4]."""
        images = F.pad(images, self._border, mode="reflect")
        spectrum = torch.fft.fft2(images)
        fine, coarse = self.fine(spectrum), self.coarse(spectrum)
        twice = self.coarse(torch.fft.fft2(fine)).flatten(2, 3)
        smooth = self.average_fine(torch.cat([images.unsqueeze(2), fine], dim=2))
        return torch.cat([smooth, self.average_coarse(torch.cat([coarse, twice], dim=2))], dim=2)


class _Moduli(nn.Module):
    """|x * psi| for the 8 wavelets of one scale, at every 2^scale-th pixel."""

    def __init__(self, sides: tuple[int, int], scale: int) -> None:
        super().__init__()
        self._step = 1 << scale
        wavelets = torch.stack([_morlet(sides, scale, angle) for angle in range(ANGLES)])
        self._wavelets: Tensor
        self.register_buffer("_wavelets", wavelets.to(torch.float32), persistent=False)

    def forward(self, spectrum: Tensor) -> Tensor:
        """A transform, complex [..., P, Q] -> float [..., 8, P / 2^scale, Q / 2^scale]."""
        product = spectrum.unsqueeze(-3) * self._wavelets
        step, (*batch, high, wide) = self._step, product.shape
        if step > 1:
            product = product.view(*batch, step, high // step, step, wide // step).mean((-4, -2))
        real, imaginary = torch.view_as_real(torch.fft.ifft2(product)).unbind(-1)
        return (real.square() + imaginary.square() + _TINY).sqrt()


class _Average(nn.Module):
    """x * phi at every fourth pixel of the image inside the border, for x at every 2^scale-th pixel."""

    def __init__(self, sides: tuple[int, int], scale: int) -> None:
        super().__init__()
        self._kept = sides[0] // STRIDE - 2, sides[1] // STRIDE - 2
        rows, columns = (_gaussian(side, scale).to(torch.float32) for side in sides)
        self._rows: Tensor
        self._columns: Tensor
        self.register_buffer("_rows", rows, persistent=False)
        self.register_buffer("_columns", columns.T.contiguous(), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """[..., P / 2^scale, Q / 2^scale] -> [..., height // 4, width // 4]."""
        return (self._rows @ (values @ self._columns))[..., : self._kept[0], : self._kept[1]]


def _padded(side: int) -> int:
    return ((side + STRIDE) // STRIDE + 1) * STRIDE


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
    """The average over one side as a matrix [side / 4 - 2 and rows of zeros up to a multiple of 16, side / 2^scale].

    With fewer rows, bits of a product depended on an example's place in its batch (MKL on AMD, 7 rows).  At the coarser
    scale the Gaussian has lost its frequencies above that scale's, as in Kymatio.
    """
    sigma = 1.6
    places = torch.arange(-2 * side, 3 * side, dtype=torch.float64)
    values = torch.exp(-(places**2) / (2 * sigma**2)).view(5, side).sum(0) / (math.sqrt(2 * _PI) * sigma)
    coarse, step = side >> scale, STRIDE >> scale
    spectrum = torch.fft.rfft(values)[: coarse // 2 + 1]
    kept: Tensor = torch.fft.irfft(spectrum, n=coarse)
    shifts = torch.arange(step, coarse - step, step)[:, None] - torch.arange(coarse)
    return F.pad(kept[shifts % coarse], (0, 0, 0, -len(shifts) % 16))
