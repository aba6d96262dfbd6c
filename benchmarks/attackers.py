"""Aggregation rules against attackers: digits, 20 clients of which 4 are bad, one CollabDM message each.

    python benchmarks/attackers.py                                # Dirichlet 1 and .1, epsilon 8 and without privacy
    python benchmarks/attackers.py --dirichlet 1 --epsilon 0 --bad 11 --attacks none pair --rules median krum
    python benchmarks/attackers.py --epsilon 8 --seeds 0 1 2 --attacks none uniform gaussian a_little_is_enough

The accuracies, in percent, are those of one network trained on S, on the test set; a Markdown table for each setting,
of means and sample deviations over the seeds.  A seed's bad clients are the same for all attacks.  "none" is the clean
run, "pair" calls class c at bad clients c + 1, "uniform" any other class at random; all others are
`simulation.attacks`.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings

import torch

from private_distdd import CollabDM, Privacy, dirichlet_split, evaluate, load_dataset, mislabel
from private_distdd.errors import NotPrivateWarning
from private_distdd.simulation.attacks import ATTACKS, Attacked

CLIENTS = 20
RULES = (
    "mean",
    "median",
    "trimmed_mean(share=0.2)",
    "krum(bad=4)",
    "multi_krum(bad=4)",
    "geometric_median",
    "centred_clipping",
    "norm_filter(bad=4)",
    "nearest_neighbours(bad=4, rule='geometric_median')",
    "bucketing(size=2, rule='geometric_median')",
    "agreement(bad=4)",
)
PATTERNS = ("pair", "uniform")

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dirichlet", type=float, nargs="*", default=[1.0, 0.1])
parser.add_argument("--epsilon", type=float, nargs="*", default=[0.0, 8.0], help="0: without privacy")
parser.add_argument("--bad", type=int, default=4)
parser.add_argument("--rules", nargs="*", default=RULES)
parser.add_argument(
    "--attacks",
    nargs="*",
    choices=("none", *PATTERNS, *ATTACKS),
    default=["none", "pair", "sign_flip", "inner_product"],
)
parser.add_argument("--seeds", type=int, nargs="*", default=[0], help="public; noise is fresh in every run")
options = parser.parse_args()

torch.set_num_threads(1)
warnings.simplefilter("ignore", NotPrivateWarning)
logging.getLogger("private_distdd").setLevel(logging.CRITICAL)
train, test = load_dataset("digits")


def score(rule: str, attack: str, alpha: float, epsilon: float, seed: int) -> float:
    """Accuracy in percent of one network that is trained on S."""
    clients = dirichlet_split(train, CLIENTS, alpha=alpha, seed=seed)
    spoilt = mislabel(clients, options.bad / CLIENTS, attack if attack in PATTERNS else "pair", seed=seed)
    bad = [new.client_id for new, old in zip(spoilt, clients, strict=True) if new is not old]
    method = CollabDM(
        ipc=10,
        networks=8,
        model_args={"width": 16},
        matching_steps=200,
        aggregator=rule,
        privacy=Privacy(target_epsilon=epsilon, delta=1e-5) if epsilon else None,
        seed=seed,
    )
    if attack in ("none", *PATTERNS):
        release = method.fit(clients if attack == "none" else spoilt)
    else:
        release = method.fit(Attacked(clients, bad, attack, seed=seed), info=train.info)
    found = evaluate(release.dataset, test, model_args={"width": 16}, seeds=[seed], epochs=150)
    return 100 * found.mean


def cell(found: list[float]) -> str:
    """Mean and sample deviation."""
    return f"{statistics.fmean(found):.1f}" + (f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else "")


begun = time.process_time()
for epsilon in options.epsilon:
    for alpha in options.dirichlet:
        title = f"epsilon {epsilon:g}" if epsilon else "without privacy"
        print(f"\n{title}, Dirichlet {alpha:g}, {options.bad} of {CLIENTS} bad\n")
        print("| rule |", *(f"{attack} |" for attack in options.attacks))
        print("| --- |", *("--- |" for _ in options.attacks))
        for rule in options.rules:
            print(f"| `{rule}` |", end="", flush=True)
            for attack in options.attacks:
                found = [score(rule, attack, alpha, epsilon, seed) for seed in options.seeds]
                print(f" {cell(found)} |", end="", flush=True)
            print(flush=True)
print(f"\n{time.process_time() - begun:.0f} seconds of CPU")
