"""PRV: numerical composition of privacy-loss random variables, within eps_error of the truth.

Opacus's port of Gopi, Lee and Wutschitz 2021 ("Numerical composition of differential privacy") discretises the losses;
composition and the inversion are done here, because both directions and many clients' counts share one discretisation,
and because Opacus's sums overflow at losses of 709 and are not monotone.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from private_distdd.privacy.accountants import base, dots
from private_distdd.privacy.accountants.base import Bracket
from private_distdd.privacy.accountants.gdp import GDP, gaussian_mu
from private_distdd.privacy.accountants.loss import AddLoss, GaussianLoss, Loss, RemoveLoss
from private_distdd.privacy.accountants.profile import Profile
from private_distdd.privacy.accountants.rdp import RDP, tail_bound
from private_distdd.privacy.events import Event, SampledGaussian

Terms = tuple[SampledGaussian, ...]
Direction = Literal["remove", "add"]

MAX_POINTS = 2**22
MAX_LOSS = 700.0  # e^700 is still a float64
MAX_NOISE = 1e100  # its square is still a float64
MAX_WORK = 2**23  # different mechanisms times points: some 5 s
CHECKED_EPSILON = 10.0  # above it, prv-accountant 0.2.0 brackets the wrong numbers
CHECKED_POINTS = 2**21  # past this there is no cross-check
CHECKED_WORK = 2**18  # mechanisms times points of prv-accountant, which computes in extended precision: 2 s


class _UnservedError(Exception):
    """The grid asked for is beyond this accountant: another bound serves, and the note says why."""


@dataclass(frozen=True)
class _Grid:
    """Losses -(points/2 - 1) * step, ..., 0, ..., points/2 * step; `step` is a power of 2, so each is exact."""

    points: int
    step: float


def _with_one_gaussian(terms: Terms) -> Terms:
    """The terms with all releases of sample_rate 1 replaced by the one Gaussian release that equals them."""
    mu = gaussian_mu(term for term in terms if term.sample_rate == 1)
    if mu > MAX_NOISE:
        raise _UnservedError("the predicted domain is infinite")
    sampled = tuple(term for term in terms if term.sample_rate < 1)
    return (*sampled, SampledGaussian(1 / mu, 1.0)) if mu >= 1e-300 else sampled


def _reach(terms: Terms, delta_error: float) -> float:
    """A loss that one release exceeds with at most delta_error / 16 / releases, and all with delta_error / 8."""
    each = delta_error / 16 / sum(term.count for term in terms)
    single = max(tail_bound((SampledGaussian(term.noise_multiplier, term.sample_rate),), each) for term in terms)
    return max(single, tail_bound(terms, delta_error / 8))


def _grid(terms: Terms, eps_error: float, delta_error: float) -> _Grid:
    """The grid of Gopi, Lee and Wutschitz 2021, theorem 5.5, rounded to a ladder so that similar histories share one.

    With n losses Y_i, step h and half-width L, the composed grid variable is within eps_error of sum Y_i but for
    (i) some |Y_i| > L: delta_error / 8; (ii) rounding to the grid, mean-preserving and at most h wide per loss:
    2 exp(-2 eps_error^2 / (n h^2)) <= delta_error / 6 (Hoeffding); (iii) the circular convolution wrapping around, when
    sum Y_i leaves the window, whose centre the mean shifts move by at most n h / 2: delta_error / 4.  Together less
    than delta_error.  The tails of (i) and (iii) come from Renyi divergences, half of each for either end: the lower
    tail of one direction is lighter than the upper tail of the other, P(Y < -t) <= e^-t P'(Y' > t).
    """
    if max(term.noise_multiplier for term in terms) > MAX_NOISE:
        raise _UnservedError(f"a noise multiplier beyond {MAX_NOISE:g}")
    releases = sum(term.count for term in terms)
    finest = eps_error / math.sqrt(releases / 2 * math.log(12 / delta_error))
    if not finest >= 1e-300:
        raise _UnservedError("the predicted grid has no step")
    step = 2.0 ** math.floor(math.log2(finest))
    reach = _reach(terms, delta_error) + eps_error + releases * step / 2
    if not reach <= MAX_LOSS:
        raise _UnservedError(f"the predicted domain reaches losses beyond {MAX_LOSS:.0f}")
    half = reach / step
    exponent = max(0, math.ceil(math.log2(half)) - 3)
    points = 2 * math.ceil(half / 2**exponent) * 2**exponent  # 4 to 8 times a power of 2: sizes that FFTs like
    if points > MAX_POINTS:
        raise _UnservedError(f"the predicted domain of {points} points is beyond {MAX_POINTS}")
    if points * len(terms) > MAX_WORK:
        raise _UnservedError(f"{len(terms)} mechanisms on a domain of {points} points are beyond {MAX_WORK}")
    return _Grid(points, step)


@lru_cache(maxsize=8)
def _transform(sigma: float, q: float, direction: Direction, grid: _Grid) -> tuple[NDArray[np.complex128], float]:
    """The Fourier transform of one discretised loss, loss 0 first, and the shift that keeps its mean."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's and Opacus's own, at the first import
        from private_distdd.opacus_parts import Domain, discretize
    from scipy.fft import rfft

    loss: Loss
    if q == 1:
        loss = GaussianLoss(1 / sigma)
    elif direction == "remove":
        loss = RemoveLoss(sigma, q)
    else:
        loss = AddLoss(sigma, q)
    before_zero = grid.points // 2 - 1
    domain = Domain(-before_zero * grid.step, (grid.points // 2) * grid.step, grid.points)
    try:
        discrete = discretize(loss, domain)
    except RuntimeError as error:  # "Discrete mean differs": the loss is too far from the grid to be served
        raise _UnservedError("the mean of a loss cannot be kept on the predicted grid") from error
    transform = rfft(np.roll(discrete.pmf, -before_zero))
    transform.setflags(write=False)
    return transform, float(discrete.domain.shifts)


def _power(transform: NDArray[np.complex128], count: int) -> NDArray[np.complex128]:
    """transform ** count by repeated squaring: numpy's complex power takes seven times as long."""
    result: NDArray[np.complex128] | None = None
    while True:
        if count % 2:
            result = transform if result is None else result * transform
        count //= 2
        if not count and result is not None:
            return result
        transform = transform * transform


@lru_cache(maxsize=2)  # both directions of one history: its whole curve is then composed once
def _profile(terms: Terms, direction: Direction, grid: _Grid) -> Profile:
    """Composes the losses of `terms` by one product of Fourier transforms, and integrates the tails."""
    from scipy.fft import irfft

    product: NDArray[np.complex128] | None = None
    shift = 0.0
    for term in terms:
        transform, shift_of_one = _transform(term.noise_multiplier, term.sample_rate, direction, grid)
        power = _power(transform, term.count)
        product = power if product is None else product * power
        shift += term.count * shift_of_one
    before_zero = grid.points // 2 - 1
    mass = np.maximum(np.roll(irfft(product, n=grid.points), before_zero), 0.0)
    # A Fourier coefficient f is wrong by about (machine epsilon) log2(points), so f^n by n times that.
    releases = sum(term.count for term in terms)
    relative = float(np.finfo(np.float64).eps) * math.log2(grid.points) * releases
    return Profile.of_mass(mass, shift - before_zero * grid.step, grid.step, relative)


@dataclass(frozen=True)
class PRV:
    """The accountant by numerical composition: within 2 eps_error of the truth, in the worse of both directions.

    Args:
        eps_error: half-width of the bracket that the numerics are set up for, finite and > 0; None for 0.01, or for
            1/250 of a first estimate where that is less: a fixed error would drown small epsilons.
        cross_check: compare every epsilon up to 10 with Microsoft's prv-accountant (removal, the only direction it
            knows); where they differ by more than 2 eps_error, the larger is reported, and the note says so.

    Raises:
        ConfigurationError: `eps_error` is outside its range.

    Formal guarantee: that of `Accountant`, up to float64 rounding (an estimate of which is added to delta), and
    `bracket(...).lower` is a lower bound for the pair of distributions that the events describe.  Histories with only
    sample_rate 1 are served by `GDP`, exactly.  Where the predicted grid passes 2^22 points (2^23, summed over
    different mechanisms), or losses of 700, the smaller bound of `RDP` and of `dots` serves, and the note says so.
    That is decided by the events, delta and eps_error alone, never by time or load, so everybody who recomputes a bill
    gets the same one.
    """

    eps_error: float | None = None
    cross_check: bool = True

    name: ClassVar[str] = "prv"

    def __post_init__(self) -> None:
        if self.eps_error is not None:
            base.check_positive("eps_error", self.eps_error)

    def _error(self, terms: Terms, delta: float) -> float:
        """The half-width for these events."""
        if self.eps_error is not None:
            return self.eps_error
        return min(0.01, max(2e-5, _bracket(terms, delta, 0.01, False).estimate / 250))

    @classmethod
    def for_budget(cls, epsilon: float, cross_check: bool = True) -> PRV:
        """The accountant for checks against a budget: a fixed error of 0.01 would waste a small one."""
        return cls(min(0.01, base.check_positive("epsilon", epsilon) / 100), cross_check)

    def bracket(self, events: Iterable[Event], delta: float) -> Bracket:
        """See `Accountant.bracket`.  Equal histories are computed once."""
        delta = base.check_delta(delta)
        terms = base.canonical(events)
        if terms is None:
            return base.NO_GUARANTEE
        if all(term.sample_rate == 1 for term in terms):
            return GDP().bracket(terms, delta)
        return _bracket(terms, delta, self._error(terms, delta), self.cross_check)

    def delta(self, events: Iterable[Event], epsilon: float) -> float:
        """See `Accountant.delta`.  Never below about 1e-12, the error of the numerics in delta."""
        epsilon = base.check_epsilon(epsilon)
        terms = base.canonical(events)
        if terms is None:
            return 1.0
        if all(term.sample_rate == 1 for term in terms):
            return GDP().delta(terms, epsilon)
        error = 0.01 if self.eps_error is None else self.eps_error
        try:
            profiles = _profiles(terms, error, 1e-12)
        except _UnservedError:
            return min(RDP().delta(terms, epsilon), dots.upper_delta(terms, epsilon), dots.chance_of_any_coin(terms))
        return min(1.0, max(p.delta_at(epsilon - error) + p.rounding + 1e-12 for p in profiles.values()))


def _profiles(terms: Terms, eps_error: float, delta_error: float) -> dict[Direction, Profile]:
    merged = _with_one_gaussian(terms)
    grid = _grid(merged, eps_error, delta_error)
    return {"remove": _profile(merged, "remove", grid), "add": _profile(merged, "add", grid)}


@lru_cache(maxsize=4096)
def _bracket(terms: Terms, delta: float, eps_error: float, cross_check: bool) -> Bracket:
    delta_error = delta / 1000  # Opacus's choice
    try:
        profiles = _profiles(terms, eps_error, delta_error)
        if any(p.rounding + delta_error >= delta / 2 for p in profiles.values()):
            raise _UnservedError("rounding would dominate at so small a delta")
    except _UnservedError as reason:
        return _upper(terms, delta, str(reason))
    lower = max(p.epsilon_at(delta + delta_error + p.rounding) - eps_error for p in profiles.values())
    estimates = {direction: p.epsilon_at(delta) for direction, p in profiles.items()}
    upper = max(p.epsilon_at(delta - delta_error - p.rounding) + eps_error for p in profiles.values())
    ours = Bracket(max(0.0, lower), max(0.0, *estimates.values()), max(0.0, upper))
    if not cross_check or estimates["remove"] > CHECKED_EPSILON:
        return ours
    return _cross_checked(ours, estimates["remove"], _with_one_gaussian(terms), delta, eps_error)


def _upper(terms: Terms, delta: float, reason: str) -> Bracket:
    """The best bound that needs no fine grid; `lower` is 0."""
    if dots.chance_of_any_coin(terms) <= delta:
        return Bracket(0.0, 0.0, 0.0, f"no coin may have fallen: {reason}")
    by_dots, by_rdp = dots.upper_epsilon(terms, delta), RDP().bracket(terms, delta).upper
    upper, served = min((by_rdp, "RDP serves"), (by_dots, "connected dots serve"))
    return Bracket(0.0, upper, upper, f"{served}: {reason}")


def _cross_checked(ours: Bracket, removal: float, terms: Terms, delta: float, eps_error: float) -> Bracket:
    """`ours` confirmed by Microsoft's accountant, or widened to hold both and annotated."""
    too_large = Bracket(ours.lower, ours.estimate, ours.upper, "not cross-checked: the grid is too large")
    if _grid(terms, eps_error, delta / 1000).points > CHECKED_POINTS:
        return too_large

    def ask(coarseness: int) -> tuple[float, float, float] | None:
        try:
            return _microsoft(terms, delta, coarseness * eps_error)
        except _UnservedError:
            return None

    def agrees(found: tuple[float, float, float]) -> bool:
        return abs(max(0.0, found[1]) - max(0.0, removal)) <= 2 * eps_error

    # On a grid four times as coarse, for its time, or on the next coarser one that is not too much work: estimates
    # converge far faster than bounds.  Only where the first disagrees does the fine grid decide; the last is too coarse
    # to accuse anybody.
    try:
        coarseness, found = next(((c, answer) for c in (4, 16, 64) if (answer := ask(c))), (64, None))
        if found and coarseness == 4 and not agrees(found):
            found = ask(1) or found
    except (ArithmeticError, AssertionError, IndexError, RuntimeError, ValueError) as error:
        return Bracket(ours.lower, ours.estimate, ours.upper, f"not cross-checked: {type(error).__name__}")
    if found is None or (coarseness == 64 and not agrees(found)):
        return too_large
    if agrees(found):
        return ours
    lower, estimate, upper = found
    note = f"prv-accountant says {estimate:.4g}, Opacus's numerics {removal:.4g} for removal: the larger is reported"
    return Bracket(min(ours.lower, max(0.0, lower)), max(ours.estimate, estimate), max(ours.upper, upper), note)


def _microsoft(terms: Terms, delta: float, eps_error: float) -> tuple[float, float, float]:
    """Microsoft's (lower, estimate, upper) for removal."""
    mechanisms = tuple((term.noise_multiplier, term.sample_rate) for term in terms)
    counts = [term.count for term in terms]
    most = tuple(2 ** math.ceil(math.log2(count)) for count in counts)  # one set-up serves similar counts
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        composer = _microsoft_composer(mechanisms, most, eps_error, delta / 1000)
        composed = composer.compute_composition(counts)
        lower, estimate, upper = composed.compute_epsilon(delta, delta / 1000, eps_error)
    if not all(map(math.isfinite, (lower, estimate, upper))):
        raise ArithmeticError("not finite")
    return lower, estimate, upper


@lru_cache(maxsize=4)
def _microsoft_composer(
    mechanisms: tuple[tuple[float, float], ...], most: tuple[int, ...], eps_error: float, delta_error: float
) -> Any:
    """What `PRVAccountant.__init__` of prv-accountant 0.2.0 sets up, with exact means, and with our domain.

    Its own search for the domain takes up to a second a mechanism, however few the points.  Its own quadrature of the
    mean, over twelve fixed points, is the part that fails (its issue 36: wrong by .02 at q = .12, sigma = .8, 9
    releases, and an exception on finer grids); a fix was merged, and never released.
    """
    from prv_accountant import PoissonSubsampledGaussianMechanism, composers, discretisers
    from prv_accountant.domain import Domain
    from prv_accountant.privacy_random_variables import GaussianMechanism, PrivacyRandomVariableTruncated

    losses = [GaussianMechanism(s) if q == 1 else PoissonSubsampledGaussianMechanism(q, s) for s, q in mechanisms]
    terms = tuple(SampledGaussian(s, q, count) for (s, q), count in zip(mechanisms, most, strict=True))
    reach = max(_reach(terms, delta_error), eps_error) + 3
    step = eps_error / math.sqrt(sum(most) / 2 * math.log(12 / delta_error))
    if not len(losses) * 2 * reach / step <= CHECKED_WORK:
        raise _UnservedError("the grid of prv-accountant is too large")
    domain = Domain.create_aligned(-reach, reach, step)
    discrete = []
    for loss, (sigma, q) in zip(losses, mechanisms, strict=True):
        truncated = PrivacyRandomVariableTruncated(loss, domain.t_min(), domain.t_max())
        truncated.mean = GaussianLoss(1 / sigma).mean if q == 1 else RemoveLoss(sigma, q).mean
        discrete.append(discretisers.CellCentred().discretise(truncated, domain))
    return composers.Heterogeneous(discrete)
