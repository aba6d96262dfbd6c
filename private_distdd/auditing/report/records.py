"""What an audit says: one frozen record, as JSON or as a line of a table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from private_distdd.rounding import rounded_down, rounded_up

Kind: TypeAlias = Literal[
    "deterministic", "rigorous", "assumes Gaussian", "assumes the form", "assumes a fair split", "descriptive"
]
Curve: TypeAlias = tuple[tuple[float, float], ...]

CONFIDENCE = 0.95  # of reports
GATE_ALPHA = 1e-4  # of gates: a 5 % test fires on a correct mechanism in one run of twenty
DELTAS = (1e-6, 1e-5, 1e-4, 1e-3)
AIM = 1e-5  # thresholds are chosen for the bound at this delta


@dataclass(frozen=True)
class AuditRecord:
    """The outcome of one audit.

    Args:
        audit: its name, for example "canary_single".
        claim: what was attacked, in words: the events charged, or the property that must hold.
        kind: what the outcome rests on.
        statistic: what was computed from the messages.
        trials: trials a side (half of all where the sides differ), or comparisons made.
        rejected: was the claim refuted, at `gate_alpha` where chance plays a part?
        adversary: what the attacker knew and chose.
        assumptions: what the outcome rests on beyond the messages.
        seconds: wall time.
        seed: of everything random in the audit; None where the operating system drew it.
        lower: (delta, lower bound on epsilon) at `confidence`; empty where the audit bounds no epsilon.
        upper: (delta, the accountant's epsilon) of the claim, at the same deltas.
        gate_lower: the lower bounds again, at `gate_alpha`, where they are rigorous: those must not pass `upper`.
        figures: further numbers, by name.
        curves: further curves, by name: points (FPR, TPR).
        findings: what was found wrong, a line each; empty where nothing was.
        confidence, gate_alpha: levels of `lower` and of `rejected`.
    """

    audit: str
    claim: str
    kind: Kind
    statistic: str
    trials: int
    rejected: bool
    adversary: str
    assumptions: str
    seconds: float
    seed: int | None = None
    lower: tuple[tuple[float, float], ...] = ()
    upper: tuple[tuple[float, float], ...] = ()
    gate_lower: tuple[tuple[float, float], ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    findings: tuple[str, ...] = ()
    confidence: float = CONFIDENCE
    gate_alpha: float = GATE_ALPHA

    def __repr__(self) -> str:
        bound = f"epsilon {self._bound}" if self._bound else ""
        return f"AuditRecord({', '.join(part for part in (self.audit, bound, self._verdict) if part)})"

    @property
    def _bound(self) -> str:
        """Lower and upper bound on epsilon at delta = 1e-5, where they are given there."""
        low, high = dict(self.lower).get(AIM), dict(self.upper).get(AIM)
        return "" if low is None or high is None else f"{rounded_down(low)} <= {rounded_up(high)}"

    @property
    def _verdict(self) -> str:
        return "REJECTED" if self.rejected else "" if self.kind == "descriptive" else "not rejected"

    def to_json(self) -> dict[str, Any]:
        """A JSON object; infinity is written as the text "infinity"."""
        return {
            "audit": self.audit,
            "claim": self.claim,
            "kind": self.kind,
            "statistic": self.statistic,
            "trials": self.trials,
            "confidence": self.confidence,
            "gate_alpha": self.gate_alpha,
            "rejected": self.rejected,
            "epsilon": [
                {"delta": delta, "lower": as_json(low), "upper": as_json(high)}
                for (delta, low), (_, high) in zip(self.lower, self.upper, strict=True)
            ],
            "figures": {name: as_json(value) for name, value in self.figures.items()},
            "curves": {name: [list(point) for point in curve] for name, curve in self.curves.items()},
            "findings": list(self.findings),
            "adversary": self.adversary,
            "assumptions": self.assumptions,
            "seed": self.seed,
            "seconds": round(self.seconds, 3),
        }


def as_json(value: float) -> float | str:
    """A number as JSON can hold it: infinity is the text "infinity"."""
    return value if math.isfinite(value) else str(value).replace("inf", "infinity")


def table(records: Iterable[AuditRecord]) -> str:
    """The records as a table of plain text: the bounds are shown at delta = 1e-5, where they are given there."""
    rows = [("audit", "kind", "trials", "epsilon, lower <= upper", "verdict", "seconds")]
    for record in records:
        told = record._bound, record._verdict
        rows.append((record.audit, record.kind, f"{record.trials:,}", *told, f"{record.seconds:.1f}"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
