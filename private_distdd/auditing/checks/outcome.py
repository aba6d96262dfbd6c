"""What a check found, as a record: by certainty, or by exact tests that share one level."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from private_distdd.auditing.checks import whiteness
from private_distdd.auditing.checks.whiteness import Test
from private_distdd.auditing.report.records import AuditRecord

_NONE: Mapping[str, float] = {}


def certain(
    audit: str,
    started: float,
    findings: Sequence[str],
    *,
    claim: str,
    statistic: str,
    trials: int,
    adversary: str,
    assumptions: str,
    seed: int | None = None,
    figures: Mapping[str, float] = _NONE,
) -> AuditRecord:
    """The record of a check that chance plays no part in: any finding refutes the claim.

    Args:
        audit: its name.
        started: of `time.perf_counter()`.
        findings: what was found wrong.
        claim, statistic, trials, adversary, assumptions, seed, figures: as in `AuditRecord`.
    """
    return AuditRecord(
        audit=audit,
        claim=claim,
        kind="deterministic",
        statistic=statistic,
        trials=trials,
        rejected=bool(findings),
        adversary=adversary,
        assumptions=assumptions,
        seconds=time.perf_counter() - started,
        seed=seed,
        figures=figures,
        findings=tuple(findings),
    )


def statistical(
    audit: str,
    started: float,
    tests: Sequence[Test],
    gate_alpha: float,
    *,
    claim: str,
    statistic: str,
    trials: int,
    adversary: str,
    assumptions: str,
    seed: int,
    figures: Mapping[str, float] = _NONE,
) -> AuditRecord:
    """The record of a check by exact tests, which share `gate_alpha` by Bonferroni; ten findings are told.

    Args:
        audit: its name.
        started: of `time.perf_counter()`.
        tests: what was seen, each with its probability at most where the claim is right.
        gate_alpha: of all of them together.
        claim, statistic, trials, adversary, assumptions, seed: as in `AuditRecord`.
        figures: likewise, beside the least of the probabilities.
    """
    findings = whiteness.findings(tests, gate_alpha)
    return AuditRecord(
        audit=audit,
        claim=claim,
        kind="rigorous",
        statistic=statistic,
        trials=trials,
        rejected=bool(findings),
        adversary=adversary,
        assumptions=assumptions,
        seconds=time.perf_counter() - started,
        seed=seed,
        figures={"least probability": min(p for _, p in tests), **figures},
        findings=findings[:10],
        gate_alpha=gate_alpha,
    )
