"""A linear softmax on public wavelet features."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from private_distdd.data.form import Shape
from private_distdd.errors import ModelError
from private_distdd.networks.register import register_model
from private_distdd.networks.scattering import CHANNELS, SMALLEST, STRIDE, Scattering
from private_distdd.networks.zoo.arguments import require_image
from private_distdd.validate import is_real, is_whole

_MULTIPLE = 4  # of features: with 81, say, a row of logits depended on its place, to the bit (docs/theorem.md, 4.3)


_GROUPS = 27  # of 3 channels


@register_model("scatter_linear")
def scatter_linear(
    shape: Shape, num_classes: int, *, pool: int = 1, groups: int | None = None, norm: float = 5.0
) -> nn.Module:
    """One linear layer on scattering coefficients, which are fixed and public.

    Scattering (81 channels a colour, every fourth pixel), average pooling, normalisation of each example's groups of
    channels, and scaling of each example to one Euclidean norm.  The linear layer starts from zeros, whatever the seed:
    a linear softmax has no symmetry that a random start would have to break.  The network's state is that layer's.
    Its inputs are as many as the features, and up to 3 zeros: a multiple of 4.

    Args:
        pool: coefficients are averaged over pool x pool places, 1 ... (their shorter side); at the lower and the right
            border over as many as there are.
        groups: of channels, each with mean 0 and variance 1 over an example; divides 81 a colour.  Default: 27 of each.
        norm: of the features of each example, in (0, 1000).  Gradients clipped at C are those of unit features clipped
            at C / norm.

    Raises:
        ModelError: the examples are no images, or smaller than 5 x 5, or an argument is outside its range.

    Source: Tramer and Boneh 2021 ("Differentially private learning needs better features"); `Scattering`.
    """
    colours, height, width = require_image("scatter_linear", shape)
    if min(height, width) < SMALLEST:
        raise ModelError(
            f"scatter_linear for images of {height} x {width}",
            f"at least {SMALLEST} x {SMALLEST}",
            "Use 'mlp', or enlarge the images.",
        )
    channels, rows, columns = colours * CHANNELS, height // STRIDE, width // STRIDE
    if not is_whole(pool) or not 1 <= pool <= min(rows, columns):
        raise ModelError(f"pool = {pool!r}", f"a whole number, 1 ... {min(rows, columns)}", "1 averages nothing.")
    groups = _GROUPS * colours if groups is None else groups
    places = -(-rows // pool) * -(-columns // pool)
    if not is_whole(groups) or groups < 1 or channels % groups or channels * places < 2 * groups:
        allowed = f"a divisor of {channels} channels, with two values a group"
        raise ModelError(f"groups = {groups!r}", allowed, "Leave it out, or choose another one.")
    if not is_real(norm) or not 0 < norm < 1000:
        raise ModelError(f"norm = {norm!r}", "0 < norm < 1000", "5 is usual.")
    features = channels * places
    head = nn.Linear(features + -features % _MULTIPLE, num_classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return nn.Sequential(
        Scattering(height, width),
        nn.Flatten(1, 2),
        nn.AvgPool2d(pool, ceil_mode=True),
        nn.GroupNorm(groups, channels, affine=False),
        nn.Flatten(),
        _ToNorm(norm),
        head,
    )


class _ToNorm(nn.Module):
    """Each row scaled to one Euclidean norm, or to a lesser one where it is below 10^-6, and filled up with zeros."""

    def __init__(self, norm: float) -> None:
        super().__init__()
        self._norm = norm

    def forward(self, rows: Tensor) -> Tensor:
        return F.pad(self._norm * F.normalize(rows, eps=1e-6), (0, -rows.shape[1] % _MULTIPLE))
