"""Networks: the registered ones, their specification, and the check that all must pass."""

from private_distdd.networks import zoo as _zoo  # noqa: F401 - registers its networks
