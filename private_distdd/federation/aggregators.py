"""A kept name (design.md, section 5): the aggregation rules as functions; see `private_distdd.aggregation`."""

from private_distdd.aggregation.rules import mean, median, sum, trimmed_mean

__all__ = ["mean", "median", "sum", "trimmed_mean"]
