"""Membership: was this natural example among the client's?  Asked of the real messages, and of the synthetic set S.

Both audits draw natural examples instead of crafting canaries, so they say what an ordinary record risks; their bounds
are far below those of `canary_single`, which is no sign that less could leak.  Every figure "TPR at FPR a" stands
beside the ceiling 1 - f(a) = min over epsilon of (delta(epsilon) + e^epsilon a), f the claim's trade-off curve.

Sources: Nasr, Shokri and Houmansadr 2019 (gradients), Carlini et al. 2022 (low FPR), Dong, Roth and Su 2019 (f).
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

from private_distdd.auditing import bounds
from private_distdd.auditing.attacks.gradients import about_gradients
from private_distdd.auditing.attacks.outcome import bounded
from private_distdd.auditing.attacks.rates import LOW_RATES, area_under_curve, ceiling, roc, true_positive_rate
from private_distdd.auditing.bounds import Scores, TradeoffCurve
from private_distdd.auditing.report.records import AIM, CONFIDENCE, GATE_ALPHA, AuditRecord
from private_distdd.auditing.setting import Setting, library
from private_distdd.data.dataset import ImageDataset, check_labels
from private_distdd.errors import ConfigurationError, DataError
from private_distdd.networks.micro_batch import micro_batches
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.events import Event, SampledGaussian
from private_distdd.privacy.mechanism import LATTICE, clip_to_lattice
from private_distdd.privacy.randomness import InsecureRandomness
from private_distdd.questions.per_example import PerExampleGradients
from private_distdd.site.client import Client
from private_distdd.validate import require_count
from private_distdd.wire.message import Message
from private_distdd.wire.query import Query
from private_distdd.wire.run import Run

Distill: TypeAlias = Callable[[Tensor, Tensor, int], Tensor]
"""From a client's images float32 [n, C, H, W], its labels int64 [n] and a public seed to S, float [m, C, H, W]."""

Features: TypeAlias = NDArray[np.float64]
"""What an attacker reads off each S, float64 [runs, features]."""
FEATURES = ("largest cosine", "smallest distance", "mean projection")
_MEMBER_RATE = 0.5
_NO_CLAIM = TradeoffCurve([SampledGaussian(1e-3, 1.0)])  # mu = 1000: f = 0 wherever a bound can be


def membership_gradient(
    pool: ImageDataset,
    public: ImageDataset,
    spec: ModelSpec,
    setting: Setting | None,
    trials: int = 500,
    seed: int = 0,
    gate_alpha: float = GATE_ALPHA,
    centred: bool = True,
) -> AuditRecord:
    """Members and non-members of a client, told apart by its messages, each a `Client.answer`.

    Every trial builds a client that holds each example of `pool` by a fair coin, except for one target, drawn at
    random, which it holds in the trials "inside" and not in those "outside".  It answers T queries, at the networks of
    seeds 0 ... T - 1.  The score of an example x of class c sums over its queries

        s(x) = <V_c^-1 g(x), b m_c - q E[n_c] mu_c> / sqrt(<g(x), V_c^-1 g(x)>),

    g(x) its own clipped gradient, E[n_c] half of the pool's examples of class c, mu_c and M_c the mean and the second
    moment of clipped gradients of class c in `public`, and V_c = 2 r (1 - r) E[n_c] M_c + s^2 I, r = q / 2, what is
    expected of the message's covariance: s = sigma C, and without privacy a tenth of the public gradients' root mean
    square norm.  This is the matched filter, of unit variance for a non-member.  The plain inner product
    <g(x), b m_c> / ||g(x)|| (`centred` = False) mostly follows what all examples of a class share.

    AUC and TPR are over all examples of all trials: descriptive, for the scores of one message share its noise.  The
    bound on epsilon and the rejection rest on the targets alone, one an independent trial; one half of them sets the
    thresholds, the other half tests.  The target is picked at random, and the trade-off curve is convex, so the error
    rates on average over targets obey the claim as each target's own do.

    Args:
        pool: candidates, at least 2; disjoint from `public`.
        public: examples of the same kind that the attacker knows, of every class in `pool`.
        spec: the network whose gradients are asked for.
        setting: sigma, q, C, b and T as claimed, of the library's own mechanism; None: one message without privacy,
            neither clipped nor noisy.
        trials: clients a side, at least 40.
        seed: of targets and coins, and of the clients' noise: their ledgers therefore say "not private".
        gate_alpha: of the rejection.
        centred: False is the plain inner product: it shows why the public class gradients matter.

    Raises:
        ConfigurationError: too few trials, or another mechanism than the library's, which no `Client` runs.
        DataError: data sets of different form, a class that `public` lacks, or scores that no test can use.
    """
    require_count("trials", trials, "500 or more.", at_least=2 * bounds.FEWEST)
    if setting is not None and setting.mechanism is not library:
        raise ConfigurationError("another mechanism", "the library's own", "Broken ones: audits/mutants.py.")
    check_public(pool, public)
    if len(pool) < 2:
        raise DataError(f"a pool of {len(pool)} examples", "2 or more", "Members and others are compared.")
    started, rounds = time.perf_counter(), 1 if setting is None else setting.rounds
    rng, randomness = np.random.default_rng(seed), InsecureRandomness(seed)
    networks = [_Network(spec, t, pool, public, setting, centred) for t in range(rounds)]
    scores = np.zeros((2 * trials, len(pool)))
    members = rng.random(scores.shape) < _MEMBER_RATE
    targets = rng.integers(len(pool), size=2 * trials)
    members[np.arange(2 * trials), targets] = np.arange(2 * trials) < trials
    run = Run("audit", pool.info, None if setting is None else setting.plan)
    for own, held in zip(scores, members, strict=True):
        dataset = ImageDataset(pool.images[held], pool.labels[held], pool.info)
        client = Client("audited", dataset, randomness=randomness, allow_without_privacy=True)
        client.enroll(run)
        for t, network in enumerate(networks):
            own += network.scores(client.answer(Query.from_bytes(network.question.query(run, t).data)))
    aimed = scores[np.arange(2 * trials), targets]
    curve = None if setting is None else setting.curve()
    half = trials // 2
    inside, outside = aimed[:trials], aimed[trials:]
    return _judged(
        "membership_gradient",
        "none: messages without privacy" if setting is None else setting.claim,
        "matched filter: own gradient, centred and whitened by public ones" if centred else "<own gradient, message>",
        curve,
        (inside[:half], outside[:half]),
        (inside[half:], outside[half:]),
        (scores[members], scores[~members]),
        adversary="knows network, constants, who could be a member, and public examples of each class",
        assumptions=f"AUC and TPR over {scores.size:,} natural examples describe and bound nothing; the bound is from "
        "one target a client, every trial a Client.answer with noise and coins from a seed",
        trials=trials,
        started=started,
        seed=seed,
        gate_alpha=gate_alpha,
    )


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
    return _judged(
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


def _judged(
    name: str,
    claim: str,
    statistic: str,
    curve: TradeoffCurve | None,
    fit: tuple[Scores, Scores],
    test: tuple[Scores, Scores],
    described: tuple[Scores, Scores],
    *,
    adversary: str,
    assumptions: str,
    trials: int,
    started: float,
    seed: int,
    gate_alpha: float,
) -> AuditRecord:
    """Thresholds from `fit`, bounds and rejection from `test`; AUC and TPR of `described`, beside their ceilings."""
    fit, test = bounds.check_scores(*fit), bounds.check_scores(*test)
    (threshold, _), (gate, _) = bounds.best_thresholds(*fit, curve or _NO_CLAIM, AIM, 1 - CONFIDENCE, gate_alpha)
    bounding = bounds.errors_at(*test, threshold, 1 - CONFIDENCE)
    figures = {"AUC": area_under_curve(*described)}
    for rate_name, rate in LOW_RATES.items():
        figures[f"TPR at {rate_name} FPR"] = true_positive_rate(*described, rate)
        figures[f"ceiling at {rate_name} FPR"] = ceiling(curve, rate)
    errors = bounds.errors_at(*test, gate, gate_alpha)
    figures |= {"FPR upper": errors.false_positive, "FNR upper": errors.false_negative}
    return bounded(
        name,
        started,
        curve,
        bounding.epsilon,
        claim=claim,
        kind="rigorous",
        statistic=statistic,
        trials=trials,
        rejected=curve is not None and curve.rejects(errors),
        adversary=adversary,
        assumptions=assumptions,
        seed=seed,
        gate_lower=errors.epsilon,
        figures=figures,
        curves=roc(*described, curve),
        gate_alpha=gate_alpha,
    )


def _in_words(curve: TradeoffCurve) -> str:
    terms = [event for event in curve.events if isinstance(event, SampledGaussian)]
    return "S from " + " and ".join(
        f"{term.count} messages, sigma = {term.noise_multiplier:g}, q = {term.sample_rate:g}" for term in terms
    )


def check_public(attacked: ImageDataset, public: ImageDataset) -> None:
    """Refuse a public set that tells nothing about what is attacked.

    Raises:
        DataError: it is of another form, or lacks a class.
    """
    if attacked.info != public.info:
        raise DataError(f"a public set of {public.info}", f"{attacked.info}", "Take both from one data set.")
    missing = set(attacked.labels.tolist()) - set(public.labels.tolist())
    if missing:
        raise DataError(
            f"no public examples of classes {sorted(missing)}", "every class attacked", "Their means are needed."
        )


class _Network:
    """One network at known weights: the query for it, and the direction in which each example of the pool is sought."""

    def __init__(
        self,
        spec: ModelSpec,
        network_seed: int,
        pool: ImageDataset,
        public: ImageDataset,
        setting: Setting | None,
        centred: bool,
    ) -> None:
        model = spec.build(pool.info.shape, pool.info.num_classes, seed=network_seed)
        self.question = about_gradients(spec, pool.info, seed=network_seed)
        gradients = PerExampleGradients(model)
        max_grad_norm = math.inf if setting is None else setting.max_grad_norm
        own, known = (_clipped(gradients, dataset, max_grad_norm) for dataset in (pool, public))
        self._divisor, rate = (1.0, 1.0) if setting is None else (setting.divisor, setting.sample_rate)
        noise = 0.1 * _root_mean_square(known) if setting is None else setting.noise_multiplier * setting.max_grad_norm
        self._labels = pool.labels
        self._directions = torch.nn.functional.normalize(own, dim=1)
        self._expected = torch.zeros(pool.info.num_classes, gradients.dimension, dtype=torch.float64)
        if not centred:
            return
        share = rate * _MEMBER_RATE
        for label in torch.unique(pool.labels).tolist():
            alike, count = known[public.labels == label], int((pool.labels == label).sum())
            self._expected[label] = share * count * alike.mean(dim=0)
            background = alike * math.sqrt(share * (1 - share) * count / len(alike))
            self._directions[pool.labels == label] = _matched(own[pool.labels == label], background, noise)

    def scores(self, message: Message) -> Scores:
        """The score of each example of the pool, float64 [pool]."""
        rows = message.values.to(torch.float64) * self._divisor - self._expected
        return np.asarray((self._directions * rows[self._labels]).sum(dim=1).numpy())


def _root_mean_square(rows: Tensor) -> float:
    """Of the norms; 1 where all are zero."""
    return math.sqrt(float(rows.square().sum(dim=1).mean())) or 1.0


def _matched(rows: Tensor, background: Tensor, noise: float) -> Tensor:
    """V^-1 g / sqrt(<g, V^-1 g>) for each row g, where V = B^T B + noise^2 I; by Woodbury, as B has few rows."""
    gram = background @ background.T + noise**2 * torch.eye(len(background), dtype=torch.float64)
    whitened: Tensor = (rows - torch.linalg.solve(gram, background @ rows.T).T @ background) / noise**2
    scale: Tensor = (rows * whitened).sum(dim=1, keepdim=True).clamp(min=1e-300).sqrt()
    return whitened / scale


def _clipped(gradients: PerExampleGradients, dataset: ImageDataset, max_grad_norm: float) -> Tensor:
    """Each example's gradient as the mechanism sums it, float64 [n, parameters]; unclipped for an infinite norm."""
    parts = []
    for images, targets, count in micro_batches(dataset.images, dataset.labels):
        rows = gradients.rows(images, targets)[:count]
        exact = rows.to(torch.float64)
        if math.isfinite(max_grad_norm):
            exact = clip_to_lattice(rows, max_grad_norm).to(torch.float64) * (max_grad_norm / LATTICE)
        parts.append(exact)
    return torch.cat(parts)


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
        (_, best), _ = bounds.best_thresholds(*scores, curve or _NO_CLAIM, AIM, 1 - CONFIDENCE, gate_alpha)
        return best, area_under_curve(*scores)

    name = max(statistics, key=bound)
    return name, statistics[name]


def _gaussian(features: Features) -> Callable[[Features], Scores]:
    """The log-density of the Gaussian fitted to `features`, its covariance widened a little so that it has one."""
    mean, covariance = features.mean(axis=0), np.cov(features, rowvar=False)
    covariance += np.diag(1e-3 * np.diag(covariance) + 1e-8 * np.diag(covariance).max() + 1e-12)
    return lambda x: np.atleast_1d(stats.multivariate_normal(mean, covariance).logpdf(x))
