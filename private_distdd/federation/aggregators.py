"""A kept name (design.md, section 5): the aggregation rules as functions; see `private_distdd.aggregation`."""

from private_distdd.aggregation.agreement import agreement
from private_distdd.aggregation.bucketing import bucketing
from private_distdd.aggregation.centred_clipping import centred_clipping
from private_distdd.aggregation.geometric_median import geometric_median
from private_distdd.aggregation.krum import krum, multi_krum
from private_distdd.aggregation.mean import mean, sum
from private_distdd.aggregation.median import median
from private_distdd.aggregation.nearest_neighbours import nearest_neighbours
from private_distdd.aggregation.norm_filter import norm_filter
from private_distdd.aggregation.trimmed_mean import trimmed_mean

__all__ = [
    "agreement",
    "bucketing",
    "centred_clipping",
    "geometric_median",
    "krum",
    "mean",
    "median",
    "multi_krum",
    "nearest_neighbours",
    "norm_filter",
    "sum",
    "trimmed_mean",
]
