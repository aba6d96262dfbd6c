"""The guard of a budget when the schedule adapts: a privacy filter over Renyi divergences."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from private_distdd.errors import ConfigurationError
from private_distdd.privacy.accountants import base
from private_distdd.privacy.accountants.rdp import Orders, composed, conversion
from private_distdd.privacy.events import Event


@dataclass(frozen=True)
class RdpFilter:
    """Says whether one more event fits a budget, where sigma, the rate or the stopping looked at earlier messages.

    Args:
        budget_epsilon: finite, > 0.
        delta: in [1e-300, 1).

    Raises:
        ConfigurationError: an argument is outside its range.

    Formal guarantee: a client that releases event k only if `affords(events before k, event k)` said yes is
    (budget_epsilon, delta)-differentially private as a whole, whatever the events, and the moment it stops, depend on.

    Proof (after Feldman and Zrnic 2021, theorem 4.3; the same for both directions of the relation).  Fix the K orders
    of `orders`: they depend on the budget alone.  Let rho_a(t) be the sum of the divergences at order a of the first t
    events, Y_t the privacy loss of the view so far under its own law, b_a = budget_epsilon - conversion_a(delta/K).
    Given the past, event t + 1 is determined, so E[e^((a-1)(Y_(t+1) - Y_t)) | past] <= e^((a-1) times its divergence):
    hence M_a(t) = e^((a-1)(Y_t - rho_a(t))) is a supermartingale with M_a(0) = 1, and stays one when stopped at the
    last t with rho_a(t) <= b_a.  At the end T of the run some order has rho_a(T) <= b_a, because the last event was
    affordable, and then so were all sums before it, so M_a has not been stopped.  By the pointwise inequality stated at
    `conversion`, (1 - e^(epsilon - Y_T))_+ on that event is at most (delta/K) M_a(T), because rho_a(T) <= b_a.  Summed
    over the K orders, E[(1 - e^(epsilon - Y_T))_+] <= sum_a (delta/K) E[M_a(T)] <= delta, and the left side is the
    delta of the whole run.

    Six orders cost log(6) in log(1/delta), some 8 % of the budget at (8, 1e-5), and in exchange no single order has to
    be right for mechanisms that nobody knows beforehand.
    """

    budget_epsilon: float
    delta: float

    def __post_init__(self) -> None:
        base.check_positive("budget_epsilon", self.budget_epsilon)
        if base.check_delta(self.delta) < 1e-300:  # its share of one order must be a number, too
            raise ConfigurationError(f"delta = {self.delta!r}", "1e-300 <= delta < 1", "1e-5 is usual.")

    @property
    def orders(self) -> Orders:
        """The orders watched: six around the best one for a Gaussian mechanism that spends the whole budget.

        There, with divergence a * rho at order a and l = log(1/delta), epsilon = rho + 2 sqrt(rho l) at the order
        1 + sqrt(l / rho), so sqrt(rho) = sqrt(l + epsilon) - sqrt(l).  Orders above 11 are whole, and at most 1024.
        """
        log_term = -math.log(self.delta)
        root_rho = self.budget_epsilon / (math.sqrt(log_term + self.budget_epsilon) + math.sqrt(log_term))
        best = math.sqrt(log_term) / root_rho
        orders = [1 + max(best * 2 ** (step / 2), 1e-3) for step in range(-3, 3)]  # above 1 for huge budgets, too
        return tuple(order if order < 11 else float(round(min(order, 1024))) for order in orders)

    def affords(self, spent: Iterable[Event], event: Event) -> bool:
        """Whether releasing `event` after the events `spent` (all of them, in any order) keeps the guarantee."""
        terms = base.canonical((*spent, event))
        if terms is None:
            return False
        allowance = self.budget_epsilon - conversion(self.delta / len(self.orders), self.orders)
        return bool(np.any(composed(terms, self.orders) <= allowance))
