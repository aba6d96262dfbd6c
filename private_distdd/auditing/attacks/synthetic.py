"""Membership, asked of the synthetic set S alone: was this example among what was distilled?

Many distillations with and without a target are told apart by what an attacker reads off S.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from private_distdd.auditing import bounds, thresholds
from private_distdd.auditing.attacks.judged import NO_CLAIM, judged
from private_distdd.auditing.attacks.rates import area_under_curve
from private_distdd.auditing.bounds import Scores
from private_distdd.auditing.report.records import AIM, CONFIDENCE, GATE_ALPHA, AuditRecord
from private_distdd.data.dataset import ImageDataset, check_labels
from private_distdd.errors import DataError
from private_distdd.privacy.events import Event, SampledGaussian
from private_distdd.privacy.tradeoff import TradeoffCurve
from private_distdd.validate import require_count

Distill: TypeAlias = Callable[[Tensor, Tensor, int], Tensor]
"""From a client's images float32 [n, C, H, W], its labels int64 [n] and a public seed to S, float [m, C, H, W]."""

Features: TypeAlias = NDArray[np.float64]
"""What an attacker reads off each S, float64 [runs, features]."""
FEATURES = ("largest cosine", "smallest distance", "mean projection")


def membership_synthetic(
    distill: Distill,
    background: ImageDataset,
    target: tuple[Tensor, int],
    events: Sequence[Event] | None,
    trials: int = 200,
    seed: int = 0,
    gate_alpha: float = GATE_ALPHA,
) -> AuditRecord:
    """Many distillations with and without one target example, told apart by S alone: does S keep the claim?

    Read off each S, all centred by the background's mean image: the largest cosine of an image with the target, the
    smallest distance to it, and the mean projection onto it.  Half A of the runs fits a Gaussian a side to these and
    chooses among their log-likelihood ratio and each of them alone; half B tests.  Nothing of `distill` is assumed
    but that its runs are independent given their seeds, so a start from real images, or any other way around the
    mechanism, is seen where it shows in S.

    Args:
        distill: called as distill(images, labels, seed), once a run, every seed different.
        background: what is held in both worlds.
        target: the extra image, float32 [C, H, W], normalised, and its label; it comes last.
        events: what the messages behind one S were charged; None where nothing is claimed.
        trials: runs a side, at least 40; 200 are needed to see what is not blatant.
        seed: the runs get the seeds 2 trials seed, 2 trials seed + 1, ...
        gate_alpha: of the rejection.

    Raises:
        ConfigurationError: too few trials, or events that claim nothing.
        DataError: a target or an S of another form, an S that is not finite, or scores that no test can use.

    Source: Carlini et al. 2022 for the likelihood ratio of Gaussian fits.
    """
    require_count("trials", trials, "200 or more.", at_least=2 * bounds.FEWEST)
    require_count("seed", seed, "Any whole number from 0 on.", at_least=0)
    image, label = target
    extra = ImageDataset(image[None], check_labels(torch.tensor([label]), background.info.num_classes), background.info)
    if not len(background):
        raise DataError("an empty background", "at least one example", "The target is told apart from what is typical.")
    started, curve = time.perf_counter(), None if events is None else TradeoffCurve(events)
    centre = background.images.mean(dim=0)
    worlds = (
        (
            torch.cat([background.images, extra.images]),
            torch.cat([background.labels, extra.labels]),
        ),
        (background.images, background.labels),
    )
    first = 2 * trials * seed
    inside, outside = (
        np.stack(
            [_read(distill(*held, first + 2 * k + world), extra.images[0] - centre, centre) for k in range(trials)]
        )
        for world, held in enumerate(worlds)
    )
    half = trials // 2
    chosen, statistic = _chosen(inside[:half], outside[:half], curve, gate_alpha)
    tested = statistic(inside[half:]), statistic(outside[half:])
    return judged(
        "membership_synthetic",
        "none: nothing was charged" if curve is None else _in_words(curve),
        f"{chosen} of S",
        curve,
        (statistic(inside[:half]), statistic(outside[:half])),
        tested,
        tested,
        adversary="knows the background, the target and how S is made; sees S alone",
        assumptions="runs are independent; half of them chose statistic and thresholds, the other half tests",
        trials=trials,
        started=started,
        seed=seed,
        gate_alpha=gate_alpha,
    )


def _in_words(curve: TradeoffCurve) -> str:
    terms = [event for event in curve.events if isinstance(event, SampledGaussian)]
    return "S from " + " and ".join(
        f"{term.count} messages, sigma = {term.noise_multiplier:g}, q = {term.sample_rate:g}" for term in terms
    )


def _read(synthetic: Tensor, direction: Tensor, centre: Tensor) -> Features:
    """The features of one S, float64 [3], in the order of `FEATURES`; larger where the target is nearer."""
    shape = tuple(centre.shape)
    if not isinstance(synthetic, Tensor) or synthetic.dim() != 4 or tuple(synthetic.shape[1:]) != shape:
        found = tuple(synthetic.shape) if isinstance(synthetic, Tensor) else type(synthetic).__name__
        raise DataError(f"a synthetic set of form {found}", f"a tensor [m >= 1, {shape}]", "Return S's images.")
    if not len(synthetic) or not bool(torch.isfinite(synthetic).all()):
        raise DataError("a synthetic set that is empty or not finite", "finite images", "Lower the matching rate.")
    images = (synthetic.detach().cpu() - centre).flatten(1).to(torch.float64)
    sought = direction.flatten().to(torch.float64)
    norm = float(sought.norm()) or 1.0  # a target that is the background's mean is found by distance alone
    projections = images @ (sought / norm)
    cosines = projections / images.norm(dim=1).clamp(min=1e-12)
    distances = (images - sought).norm(dim=1)
    return np.array([float(cosines.max()), -float(distances.min()), float(projections.mean())])


def _chosen(
    inside: Features, outside: Features, curve: TradeoffCurve | None, gate_alpha: float
) -> tuple[str, Callable[[Features], Scores]]:
    """The statistic with the best bound on half A, and its name."""
    fitted = [_gaussian(features) for features in (inside, outside)]
    statistics: dict[str, Callable[[Features], Scores]] = {
        "likelihood ratio": lambda x: fitted[0](x) - fitted[1](x),
        # Ignored: mypy infers no type of a lambda with a default.
        **{name: lambda x, k=k: np.asarray(x[:, k]) for k, name in enumerate(FEATURES)},  # type: ignore[misc]
    }

    def bound(name: str) -> tuple[float, float]:
        scores = statistics[name](inside), statistics[name](outside)
        if np.ptp(np.concatenate(scores)) == 0:  # sees nothing
            return -math.inf, 0.5
        (_, best), _ = thresholds.best_thresholds(*scores, curve or NO_CLAIM, AIM, 1 - CONFIDENCE, gate_alpha)
        return best, area_under_curve(*scores)

    name = max(statistics, key=bound)
    return name, statistics[name]


def _gaussian(features: Features) -> Callable[[Features], Scores]:
    """The log-density of the Gaussian fitted to `features`, its covariance widened a little so that it has one."""
    mean, covariance = features.mean(axis=0), np.cov(features, rowvar=False)
    covariance += np.diag(1e-3 * np.diag(covariance) + 1e-8 * np.diag(covariance).max() + 1e-12)
    return lambda x: np.atleast_1d(stats.multivariate_normal(mean, covariance).logpdf(x))
