"""Scores of members and others, judged: a bound, a rejection, and rates that describe."""

from __future__ import annotations

from private_distdd.auditing import bounds, thresholds
from private_distdd.auditing.attacks.outcome import bounded
from private_distdd.auditing.attacks.rates import LOW_RATES, area_under_curve, ceiling, roc, true_positive_rate
from private_distdd.auditing.bounds import Scores
from private_distdd.auditing.report.records import AIM, CONFIDENCE, AuditRecord
from private_distdd.privacy.events import SampledGaussian
from private_distdd.privacy.tradeoff import TradeoffCurve

NO_CLAIM = TradeoffCurve([SampledGaussian(1e-3, 1.0)])  # mu = 1000: f = 0 wherever a bound can be


def judged(
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
    (threshold, _), (gate, _) = thresholds.best_thresholds(*fit, curve or NO_CLAIM, AIM, 1 - CONFIDENCE, gate_alpha)
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
        rejected=curve is not None and curve.rejects(errors.false_positive, errors.false_negative),
        adversary=adversary,
        assumptions=assumptions,
        seed=seed,
        gate_lower=errors.epsilon,
        figures=figures,
        curves=roc(*described, curve),
        gate_alpha=gate_alpha,
    )
