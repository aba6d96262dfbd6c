"""From the clients' messages to one: a frozen class a rule, named by a text too."""

from private_distdd.aggregation.agreement import Agreement
from private_distdd.aggregation.bucketing import Bucketing
from private_distdd.aggregation.centred_clipping import CentredClipping
from private_distdd.aggregation.geometric_median import GeometricMedian
from private_distdd.aggregation.krum import Krum, MultiKrum
from private_distdd.aggregation.mean import Mean, Sum
from private_distdd.aggregation.median import Median
from private_distdd.aggregation.nearest_neighbours import NearestNeighbours
from private_distdd.aggregation.norm_filter import NormFilter
from private_distdd.aggregation.rule import Aggregate, Rule, register_rule, rule_of
from private_distdd.aggregation.trimmed_mean import TrimmedMean

__all__ = [
    "Aggregate",
    "Agreement",
    "Bucketing",
    "CentredClipping",
    "GeometricMedian",
    "Krum",
    "Mean",
    "Median",
    "MultiKrum",
    "NearestNeighbours",
    "NormFilter",
    "Rule",
    "Sum",
    "TrimmedMean",
    "register_rule",
    "rule_of",
]
