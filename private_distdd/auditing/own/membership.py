"""Membership of an owner's own examples in a release: told from held-out ones, or not?

The test is the game of Steinke, Nasr and Jagielski 2023 with the owner's examples in place of canaries: somebody who
holds the release ranks the pairs' examples by a score and says of the r highest that they were there.  It needs one
release, which is all that an owner has.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from private_distdd.auditing import bounds
from private_distdd.auditing.attacks.guesses import epsilon_lower, refuted
from private_distdd.auditing.attacks.outcome import bounded
from private_distdd.auditing.attacks.rates import (
    LOW_RATES,
    area_interval,
    area_under_curve,
    ceiling,
    most_area,
    roc,
    true_positive_rate,
)
from private_distdd.auditing.bounds import Scores
from private_distdd.auditing.own.examples import Compared, joined
from private_distdd.auditing.own.scores import blind, nearest, scores_by
from private_distdd.auditing.report.records import CONFIDENCE, GATE_ALPHA, AuditRecord
from private_distdd.privacy.events import SampledGaussian
from private_distdd.privacy.tradeoff import TradeoffCurve
from private_distdd.release.contents import Contents

SHOWN = 20  # of the most exposed examples
_FIRST = 32  # guesses; below, even right ones alone would not be beyond chance at the level of a gate
_CONTROL = 0.99  # of the interval of what is told apart without the release: a false alarm of it hides nothing
_SAYS = {
    "nearest": "distance to the nearest example of S",
    "trained": "confidence of networks trained on S ({})",
    "classifier": "confidence of the release's own classifier",
}


@dataclass(frozen=True)
class Exposed:
    """One contributed example, among those that the release knows best.

    Args:
        name: what the owner calls it.
        label: its class.
        distance: to the nearest example of S, root mean square a value; None where there is no S.
        image: the place of that example in what S yields, likewise.
        copied: is it the same as that example?
        alike: by score, the share of held-out examples of its class that score at least as high, the example itself
            counted: at least 1 / (1 + their number).
    """

    name: str
    label: int
    distance: float | None
    image: int | None
    copied: bool
    alike: dict[str, float]


@dataclass(frozen=True, eq=False)
class OwnAudit:
    """What a release tells about its owner's examples.  It is private: about single examples, outside any mechanism.

    Args:
        compared: members and others.
        records: one for each score.
        control: AUC of somebody who never saw the release, and its interval at 99 %.
        copies: how many members, and how many others, S holds as they are.
        exposed: the members that are known best, at most 20, first those.
    """

    compared: Compared
    records: tuple[AuditRecord, ...]
    control: tuple[float, float, float]
    copies: tuple[int, int]
    exposed: tuple[Exposed, ...]

    @property
    def told_apart(self) -> bool:
        """Does some score tell members from others, beyond chance at 10^-4?"""
        return any(record.findings for record in self.records)

    @property
    def comparable(self) -> bool:
        """Do members and others look alike to somebody who never saw the release?"""
        return self.control[1] <= 0.5

    @property
    def rejected(self) -> bool:
        """Is more told than the release's claim allows?"""
        return self.comparable and any(record.rejected for record in self.records)

    @property
    def exposes(self) -> bool:
        """Is there something that the owner should look at?"""
        return self.told_apart or self.copies[0] > 0

    @property
    def claims(self) -> bool:
        """Does the release claim anything?"""
        return all(math.isfinite(high) for record in self.records for _, high in record.upper)

    @property
    def verdict(self) -> str:
        """One sentence or two."""
        if self.copies[0]:
            return (
                f"LEAK: S holds {self.copies[0]} of these examples as they are (and {self.copies[1]} of those held "
                "out). Do not hand the release on."
            )
        if self.told_apart and not self.comparable:
            return (
                "UNCLEAR: contributed and held-out examples are told apart, but they also differ for somebody who "
                "never saw the release. Take held-out examples from the same source, drawn at random."
            )
        if self.rejected:
            return (
                "REFUTED: these examples are told from held-out ones better than the claim allows: do not rely on it."
            )
        if self.told_apart:
            within = "within what its claim allows" if self.claims else "and claims nothing"
            return f"EXPOSED: the release tells these examples from held-out ones, {within}."
        return "Not told apart: these attacks found no trace of these examples in the release. A better one might."


def own_membership(
    release: Contents,
    compared: Compared,
    curve: TradeoffCurve | None,
    *,
    networks: int = 4,
    epochs: int = 100,
    seed: int = 0,
    gate_alpha: float = GATE_ALPHA,
    progress: bool = False,
) -> OwnAudit:
    """Every score of `scores_by`, tested on the pairs.

    For r = 32, 64, ... up to the number of pairs, the r highest of the pairs' examples are called members.  So many
    right guesses are beyond chance where no mechanism that tells nothing (f(a) = 1 - a) has them with probability
    `gate_alpha` over the number of tests, and refute the claim where the claim's own f does not either; the bound on
    epsilon is the highest of all r, at 95 % together.

    Formal guarantee: if each example of a pair was contributed or held out by a coin, the probability of being called
    beyond chance is at most `gate_alpha` where the release tells nothing, and that of being refuted is at most
    `gate_alpha` where it keeps its claim.  Where the owner chose otherwise, the figures describe.

    Args:
        release: what is attacked.
        compared: members and others.
        curve: of the claim; None where nothing is claimed.
        networks, epochs: see `scores_by`.
        seed: of networks, and of the control.
        gate_alpha: of both verdicts.
        progress: see `scores_by`.

    Raises:
        DataError: as `scores_by`.

    Source: Steinke, Nasr and Jagielski 2023; Mahloujifar, Melis and Chaudhuri 2024 (see `guesses.refuted`).
    """
    first, second = compared.pairs.T
    members = compared.members
    started = time.perf_counter()
    every = joined([compared.members, compared.others]).dataset
    scores = scores_by(release, every, networks, epochs, seed, progress=progress)
    told = {  # scores that are all equal are of a network that diverged
        name: (found[: len(members)], found[len(members) :]) for name, found in scores.items() if np.ptp(found) > 0
    }
    pairs = compared.members.only(first).dataset, compared.others.only(second).dataset
    control = blind(*pairs, seed)
    records = [
        _judged(
            f"own_{name}",
            _SAYS[name].format(networks),
            (inside[first], outside[second]),
            curve,
            gate_alpha / len(told),
            started,
            seed,
        )
        for name, (inside, outside) in told.items()
    ]
    area = area_under_curve(*control) if np.ptp(np.concatenate(control)) > 0 else 0.5
    interval = area_interval(area, len(first), len(first), _CONTROL)
    copies, exposed = _exposed(release, compared, told)
    return OwnAudit(compared, tuple(records), (area, *interval), copies, exposed)


def _judged(
    name: str,
    says: str,
    scores: tuple[Scores, Scores],
    curve: TradeoffCurve | None,
    gate_alpha: float,
    started: float,
    seed: int,
) -> AuditRecord:
    inside, outside = bounds.check_scores(*scores)
    area = area_under_curve(inside, outside)
    low, high = area_interval(area, len(inside), len(outside), CONFIDENCE)
    figures: dict[str, float] = {"AUC": area, "AUC low": low, "AUC high": high, "AUC allowed": most_area(curve)}
    for rate_name, rate in LOW_RATES.items():
        found = true_positive_rate(inside, outside, rate)
        least, most = bounds.clopper_pearson(round(found * len(inside)), len(inside), CONFIDENCE)
        # Exact, though the scores outside set the threshold: the FPR above their (k + 1)-th highest has this very law.
        wrong = bounds.clopper_pearson_upper(int(rate * len(outside) + 1e-9), len(outside), 1 - CONFIDENCE)
        figures |= {
            f"TPR at {rate_name} FPR": found,
            f"TPR at {rate_name} FPR low": least,
            f"TPR at {rate_name} FPR high": most,
            f"{rate_name} FPR high": wrong,
            f"ceiling at {rate_name} FPR": ceiling(curve, rate),
        }
    number, total = _guesses(len(inside)), 2 * len(inside)
    right = _right(inside, outside, number)
    level, alpha = gate_alpha / len(number), (1 - CONFIDENCE) / len(number)

    def beaten(tradeoff: Callable[[float], ArrayLike]) -> list[tuple[int, int]]:
        return [(v, r) for v, r in zip(right, number, strict=True) if refuted(v, r, total, tradeoff, level)]

    told = beaten(lambda a: max(0.0, 1 - a))
    return bounded(
        name,
        started,
        curve,
        lambda delta: max(epsilon_lower(v, r, total, delta, alpha) for v, r in zip(right, number, strict=True)),
        claim="none: nothing is claimed" if curve is None else _in_words(curve),
        kind="assumes a fair split",
        statistic=says,
        trials=len(inside),
        rejected=curve is not None and bool(beaten(curve)),
        adversary="holds the release, and asks about one example at a time",
        assumptions="each example of a pair was contributed or held out by a coin: else the figures describe",
        seed=seed,
        gate_alpha=gate_alpha,
        figures=figures,
        curves=roc(inside, outside, curve),
        findings=[f"of the {r} examples that score highest, {v} were contributed" for v, r in told],
    )


def _in_words(curve: TradeoffCurve) -> str:
    terms = [event for event in curve.events if isinstance(event, SampledGaussian)]
    return "; ".join(
        f"{term.count} messages, sigma = {term.noise_multiplier:g}, q = {term.sample_rate:g}" for term in terms
    )


def _guesses(pairs: int) -> Sequence[int]:
    """How many of the pairs' examples are called members: 32, 64, ..., and as many as there are pairs."""
    found: list[int] = []
    while (_FIRST << len(found)) < pairs:
        found.append(_FIRST << len(found))
    return [*found, pairs]


def _right(inside: Scores, outside: Scores, guesses: Sequence[int]) -> list[int]:
    """Members among the so many highest; of equal scores the others come first, so that ties help nobody."""
    scores = np.concatenate([outside, inside])
    held = np.repeat([False, True], [len(outside), len(inside)])
    order = np.argsort(-scores, kind="stable")
    return [int(held[order[:count]].sum()) for count in guesses]


def _exposed(
    release: Contents, compared: Compared, scores: dict[str, tuple[Scores, Scores]]
) -> tuple[tuple[int, int], tuple[Exposed, ...]]:
    """Copies among members and others, and the members that score highest among the held-out ones of their class."""
    members, others = compared.members.dataset, compared.others.dataset
    alike = {name: np.ones(len(members)) for name in scores}
    for label in np.unique(members.labels.numpy()):
        own, held = (np.flatnonzero(part.labels.numpy() == label) for part in (members, others))
        for name, (inside, outside) in scores.items():
            above = len(held) - np.searchsorted(np.sort(outside[held]), inside[own], side="left")
            alike[name][own] = (1 + above) / (1 + len(held))
    rarest = np.min([np.ones(len(members)), *alike.values()], axis=0)  # there may be no score that tells anything
    near, copies = None, (0, 0)
    if release.synthetic is not None:
        images = release.synthetic.expanded().images
        near, far = nearest(members, images), nearest(others, images)
        copies = int(near.copied.sum()), int(far.copied.sum())
    keys = (rarest,) if near is None else (near.distance, rarest, ~near.copied)  # the last one counts first
    chosen = np.lexsort(keys)[:SHOWN]
    return copies, tuple(
        Exposed(
            compared.members.names[i],
            int(members.labels[i]),
            None if near is None else float(near.distance[i]),
            None if near is None else int(near.place[i]),
            near is not None and bool(near.copied[i]),
            {name: float(share[i]) for name, share in alike.items()},
        )
        for i in chosen
    )
