"""What an attack reached, as a record: a lower bound on epsilon at each delta, beside what the accountant allows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

from private_distdd.auditing.report.records import DELTAS, GATE_ALPHA, AuditRecord, Curve, Kind
from private_distdd.privacy.tradeoff import TradeoffCurve

_NONE: Mapping[str, float] = {}
_NO_CURVES: Mapping[str, Curve] = {}


def bounded(
    audit: str,
    started: float,
    curve: TradeoffCurve | None,
    lower: Callable[[float], float],
    *,
    claim: str,
    kind: Kind,
    statistic: str,
    trials: int,
    rejected: bool,
    adversary: str,
    assumptions: str,
    seed: int,
    gate_lower: Callable[[float], float] | None = None,
    gate_alpha: float = GATE_ALPHA,
    figures: Mapping[str, float] = _NONE,
    curves: Mapping[str, Curve] = _NO_CURVES,
    findings: Sequence[str] = (),
) -> AuditRecord:
    """The record of an attack; all bounds are at the same deltas, `records.DELTAS`.

    Args:
        audit: its name.
        started: of `time.perf_counter()`.
        curve: of the claim; None where nothing is claimed, and epsilon is infinite.
        lower: from delta to the lower bound on epsilon, at 95 %.
        claim, kind, statistic, trials, rejected, adversary, assumptions, seed: as in `AuditRecord`.
        gate_lower: from delta to the bound at `gate_alpha`, where the bounds are rigorous.
        gate_alpha, figures, curves, findings: as in `AuditRecord`.
    """
    return AuditRecord(
        audit=audit,
        claim=claim,
        kind=kind,
        statistic=statistic,
        trials=trials,
        rejected=rejected,
        adversary=adversary,
        assumptions=assumptions,
        seconds=time.perf_counter() - started,
        seed=seed,
        lower=tuple((delta, lower(delta)) for delta in DELTAS),
        upper=tuple((delta, math.inf if curve is None else curve.epsilon(delta)) for delta in DELTAS),
        gate_lower=() if gate_lower is None else tuple((delta, gate_lower(delta)) for delta in DELTAS),
        figures=figures,
        curves=curves,
        findings=tuple(findings),
        gate_alpha=gate_alpha,
    )
