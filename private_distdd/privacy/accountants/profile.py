"""The privacy profile of a loss on a grid: delta at every epsilon, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from private_distdd.privacy.accountants.loss import Array


@dataclass(frozen=True, eq=False)
class Profile:
    """delta as a function of epsilon for one direction, on the points t_i = `first + i * step`.

    delta[i]: E[(1 - e^(t_i - Y))_+], non-increasing.  weight[i]: E[e^(t_i - Y); Y >= t_i].  rounding: what float64
    may have moved any delta by (an estimate).
    """

    first: float
    step: float
    delta: Array
    weight: Array
    rounding: float

    @classmethod
    def of_mass(cls, mass: Array, first: float, step: float, relative: float) -> Profile:
        """The profile of a loss Y with P(Y = first + i * step) = mass[i], from Fourier transforms wrong by `relative`.

        Sums from the top down, of non-negative terms only: weight[i] = mass[i] + e^-h weight[i+1], and
        delta[i] = delta[i+1] + (1 - e^-h) weight[i+1].  Nothing cancels and nothing overflows.  If each Fourier
        coefficient is wrong by `relative`, the error of any sum of masses follows by Cauchy and Schwarz.
        """
        from scipy.signal import lfilter

        weight = lfilter([1.0], [1.0, -math.exp(-step)], mass[::-1])
        delta = np.concatenate([[0.0], np.cumsum(weight[:-1]) * -math.expm1(-step)])
        rounding = relative * math.sqrt(len(mass) * float(np.sum(mass * mass)))
        return cls(first, step, delta[::-1], weight[::-1], rounding)

    def epsilon_at(self, delta: float) -> float:
        """The epsilon (possibly negative; at least `first`) where the profile passes `delta`, exact between points."""
        above = len(self.delta) - int(np.searchsorted(self.delta[::-1], delta, side="right"))
        if above == 0:
            return self.first
        return self.first + above * self.step + math.log1p((self.delta[above] - delta) / self.weight[above])

    def delta_at(self, epsilon: float) -> float:
        """The profile at `epsilon`, exact between points."""
        index = max(0, math.ceil((epsilon - self.first) / self.step))
        if index >= len(self.delta):
            return 0.0
        return float(self.delta[index] - self.weight[index] * math.expm1(epsilon - self.first - index * self.step))
