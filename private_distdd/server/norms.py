"""Which norms a noised message can have, if its client is honest."""

from __future__ import annotations

import math
from functools import lru_cache

from scipy.special import gammainccinv, gammaincinv

from private_distdd.limits import EXAMPLES
from private_distdd.privacy.mechanism import LATTICE
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.wire.packing import Packing

RARE = 1e-9
"""How often an honest message is outside, at most."""

_HAIR = 2.0**-10  # more than what float32 and float16 round off, relatively


@lru_cache(maxsize=64)
def honest_norms(plan: PrivacyPlan, packing: Packing | None, groups: int, dimension: int) -> tuple[float, float]:
    """Between which L2 norms a message's values about each group are, but with a probability of at most `RARE`.

    Of messages whose values are the mechanism's noisy sums as it gives them, those of several measurements side by
    side: for a group (s + z) / b, where s is a sum of clipped rows and z is N(0, sigma^2 C^2 I) in d dimensions.

    Formal guarantee: an honest message has a group outside with probability RARE at most, by a union over the groups.

    *Least*, whatever the data: P(|s + z| <= r) <= P(|z| <= r) for every s that does not depend on z (Anderson 1955),
    and |z|^2 / (sigma C)^2 has a chi-squared law.  Rounding moves a value by `_rounding` at most, and so the norm by
    that times sqrt(d).  Packing cuts values at M >= 7 units.  By Anderson's inequality in one dimension, and
    independence, what is left of s + z is no shorter in law than what is left of z, and that no shorter than z given
    that no value is beyond M, which has a probability of at least (1 - 2.6e-12)^d: P is then less than 2 times as
    large, up to d = 2e11, and that is allowed for.

    *Most*, where a client holds at most `limits.EXAMPLES` examples: |s| is at most that times C, times sqrt(K) for K
    measurements side by side.  No tighter bound is public: |s| may be C times the examples in the batch, and how many
    they are is private.  So a message that is far longer than the others passes: aggregation rules are for that.

    Args:
        plan: of the run.
        packing: of its messages.
        groups: of a message, >= 1.
        dimension: d, values about a group, >= 1.

    Returns:
        the least and the largest norm.
    """
    unit, level = plan.noise_multiplier * plan.max_grad_norm / plan.divisor, RARE / (4 * groups)
    least, most = (math.sqrt(2 * float(tail(dimension / 2, level))) for tail in (gammaincinv, gammainccinv))
    rounded = _rounding(plan, packing) * math.sqrt(dimension)
    signal = math.sqrt(plan.events_per_query) * EXAMPLES / plan.noise_multiplier
    return max(0.0, least - rounded) * unit * (1 - _HAIR), (signal + most + rounded) * unit * (1 + _HAIR)


def _rounding(plan: PrivacyPlan, packing: Packing | None) -> float:
    """How far a value is moved at most, in units of the noise: half a step of the lattice, half one of a packing."""
    return 0.5 / (LATTICE * plan.noise_multiplier) + (0.0 if packing is None else packing.rounding)
