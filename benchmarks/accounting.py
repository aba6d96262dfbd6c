"""What the bill of a federation costs to compute, beside the same question put to Opacus call by call.

    python benchmarks/accounting.py

50 clients, 500 rounds, q = 0.1, sigma = 1.55 (epsilon about 8).  Two questions: every client's epsilon after each
round, by RDP; and at the end every client's epsilon by PRV, where each has taken part in a different number of rounds.
The naive times are measured on a few calls in the same run and scaled up.  Times are CPU seconds, on whatever else the
machine is doing; ratios travel between machines, seconds do not.
"""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable

from private_distdd.privacy.accountants import epsilon
from private_distdd.privacy.accountants.rdp import renyi_divergences
from private_distdd.privacy.events import SampledGaussian

CLIENTS, ROUNDS, RATE, SIGMA, DELTA = 50, 500, 0.1, 1.55, 1e-5


def seconds(work: Callable[[], object]) -> float:
    """The CPU time that `work` takes, once."""
    start = time.process_time()
    work()
    return time.process_time() - start


def running_bill() -> None:
    """Epsilon of each client after each round that it takes part in, with nothing cached at the start."""
    renyi_divergences.cache_clear()
    coins = random.Random(0)  # noqa: S311 - public: who takes part
    done = [0] * CLIENTS
    for _ in range(ROUNDS):
        for client in range(CLIENTS):
            done[client] += not done[client] or coins.random() < 0.9
            epsilon([SampledGaussian(SIGMA, RATE, done[client])], DELTA, "rdp")


def final_report() -> None:
    """PRV epsilon of 50 clients, no two with the same number of rounds, cross-checked."""
    for client in range(CLIENTS):
        epsilon([SampledGaussian(SIGMA, RATE, ROUNDS - 5 * client)], DELTA, "prv")


def opacus_call(mechanism: str, rounds: int) -> None:
    """One question put to Opacus's own accountant (removal only, nothing cached)."""
    from opacus.accountants import PRVAccountant, RDPAccountant

    accountant = {"rdp": RDPAccountant, "prv": PRVAccountant}[mechanism]()
    accountant.history = [(SIGMA, RATE, rounds)]
    accountant.get_epsilon(DELTA)


def main() -> None:
    """Prints the table, and fails where a time is past its limit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opacus_call("rdp", 1)  # imports
        epsilon([SampledGaussian(2.0, 0.5)], DELTA, "prv")
    asked = {"rdp": CLIENTS * ROUNDS, "prv": CLIENTS}
    naive = {
        "rdp": seconds(lambda: [opacus_call("rdp", 100 * k) for k in range(1, 6)]) / 5 * asked["rdp"],
        "prv": seconds(lambda: [opacus_call("prv", 250 + 60 * k) for k in range(1, 4)]) / 3 * asked["prv"],
    }
    ours = {"rdp": seconds(running_bill), "prv": seconds(final_report)}
    limits = {"rdp": 5.0, "prv": 10.0}
    print(f"{'question':34} {'asked':>7} {'ours':>8} {'limit':>6} {'Opacus, scaled':>15} {'ratio':>8}")
    for mechanism, label in (("rdp", "epsilon after each round (RDP)"), ("prv", "final report (PRV)")):
        print(
            f"{label:34} {asked[mechanism]:>7} {ours[mechanism]:>7.2f}s {limits[mechanism]:>5.0f}s"
            f" {naive[mechanism]:>14.0f}s {naive[mechanism] / ours[mechanism]:>7.0f}x"
        )
    if any(ours[mechanism] > limits[mechanism] for mechanism in limits):
        raise SystemExit("a time is past its limit")


if __name__ == "__main__":
    main()
