"""A kept name (design.md, section 5): the aggregation rules as functions; see `private_distdd.aggregation`."""

from private_distdd.aggregation.mean import mean, sum
from private_distdd.aggregation.median import median
from private_distdd.aggregation.trimmed_mean import trimmed_mean

__all__ = ["mean", "median", "sum", "trimmed_mean"]
