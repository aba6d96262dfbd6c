"""A kept name (design.md, section 5): the clipped sums before any noise, for tests and audits."""

from private_distdd.questions.per_example import clipped_class_sums

__all__ = ["clipped_class_sums"]
