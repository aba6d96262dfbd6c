"""What an inversion rebuilt: pictures with their record, for pages."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from private_distdd.auditing.report.records import AuditRecord


@dataclass(frozen=True, eq=False)
class Inversion:
    """What one attack rebuilt, beside what was there; pixels in [0, 1].

    Args:
        protection: "no privacy", "clipping only" or "sigma = ...".
        labels: int64 [targets]; a target is a class of one client.
        originals: float32 [targets, C, H, W], the mean of the client's images of that class.
        guesses: the public class means, of the same form.
        rebuilt: the mean image of the restart with the lowest attack loss, of the same form.
        record: the figures.
    """

    protection: str
    labels: Tensor = field(repr=False)
    originals: Tensor = field(repr=False)
    guesses: Tensor = field(repr=False)
    rebuilt: Tensor = field(repr=False)
    record: AuditRecord
