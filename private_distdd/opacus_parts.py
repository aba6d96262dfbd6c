"""What this library takes from Opacus, whose import would configure the root logger of whoever imports us."""

from __future__ import annotations

import logging

_root = logging.getLogger()
_handlers, _level = list(_root.handlers), _root.level  # as they are before Opacus is imported

from opacus import GradSampleModule  # noqa: E402 - see above
from opacus.accountants.analysis.prv import Domain, PoissonSubsampledGaussianPRV, discretize  # noqa: E402 - see above
from opacus.grad_sample.conv import compute_conv_grad_sample  # noqa: E402 - see above
from opacus.grad_sample.functorch import ft_compute_per_sample_gradient  # noqa: E402 - see above
from opacus.utils.tensor_utils import unfold2d  # noqa: E402 - see above

_root.handlers[:] = _handlers
_root.setLevel(_level)

__all__ = [
    "Domain",
    "GradSampleModule",
    "PoissonSubsampledGaussianPRV",
    "compute_conv_grad_sample",
    "discretize",
    "ft_compute_per_sample_gradient",
    "unfold2d",
]
