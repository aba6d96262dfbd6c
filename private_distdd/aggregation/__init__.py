"""From the clients' messages to one: a frozen class a rule, named by a text too."""

from private_distdd.aggregation.mean import Mean, Sum
from private_distdd.aggregation.median import Median
from private_distdd.aggregation.rule import Aggregate, Rule, register_rule, rule_of
from private_distdd.aggregation.trimmed_mean import TrimmedMean

__all__ = ["Aggregate", "Mean", "Median", "Rule", "Sum", "TrimmedMean", "register_rule", "rule_of"]
