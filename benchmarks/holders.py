"""May the server use the noisy counts in CollabDM's messages to leave out who does not hold a class?

    python benchmarks/holders.py [--seeds 0 1 2] [--dirichlet 0.1] [--multiple 3]

Digits, 20 clients of which 4 are bad, epsilon 8, one CollabDM message each, as `attackers.py`.  The last coordinate of
a class's row is a noisy count; a message about a class of which it is below `--multiple` standard deviations of its
noise is left out.  That is post-processing, at no charge.  All rules of a line see the same messages, noise included.
"pair" calls class c at bad clients c + 1, "flip" is minus the message, "flip, true count" the same but for the count,
by which an attacker that knows of the filter gets through it.  "honest" is the mean of the 16 who are.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from private_distdd import CollabDM, Privacy, dirichlet_split, evaluate, load_dataset, mislabel
from private_distdd.aggregation import rule_of
from private_distdd.questions.class_embeddings import read

CLIENTS, BAD, NETWORKS = 20, 4, 8
PRIVACY = Privacy(target_epsilon=8.0, delta=1e-5)

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="public; noise is fresh in every run")
parser.add_argument("--dirichlet", type=float, default=0.1)
parser.add_argument("--multiple", type=float, default=3.0)
options = parser.parse_args()
torch.set_num_threads(1)
train, test = load_dataset("digits")
noise = torch.zeros(1, 2 * NETWORKS + 1)
noise[0, -1] = PRIVACY.plan(1).noise_multiplier
LEAST = options.multiple * float(read(noise, NETWORKS)[1])  # examples; C and the divisor are 1


def counts_of(messages: Tensor) -> Tensor:
    """The noisy counts, [clients, classes]."""
    return torch.stack([read(own, NETWORKS)[1] for own in messages])


def held(messages: Tensor) -> Tensor:
    """Zero where a client seems to hold none of a class."""
    return messages * (counts_of(messages) > LEAST)[:, :, None]


def median_of_holders(messages: Tensor) -> Tensor:
    """The median over holders of a class's means."""
    counts = counts_of(messages)
    seen = counts * (counts > LEAST)
    return rule_of("median")(held(messages), seen)


def rules(bad: list[int]) -> dict[str, Callable[[Tensor], Tensor]]:
    """What is compared."""
    mean, agreement = rule_of("mean"), rule_of(f"agreement(bad={BAD})")
    honest = [i for i in range(CLIENTS) if i not in bad]
    return {
        "mean": mean,
        "median": rule_of("median"),
        "agreement": agreement,
        "mean of holders": lambda messages: mean(held(messages)),
        "median of holders": median_of_holders,
        "agreement of holders": lambda messages: agreement(held(messages)),
        "honest": lambda messages: mean(messages[honest]),
        "honest holders": lambda messages: mean(held(messages[honest])),
    }


def attacked(messages: Tensor, bad: list[int], attack: str) -> Tensor:
    """What the server receives."""
    messages = messages.clone()
    if attack.startswith("flip"):
        messages[bad, :, : -1 if attack == "flip, true count" else None] *= -1
    return messages


begun = time.process_time()
attacks = ("none", "pair", "flip", "flip, true count")
found: dict[str, dict[str, list[float]]] = {}
for attack in attacks:
    for seed in options.seeds:
        clients = dirichlet_split(train, CLIENTS, alpha=options.dirichlet, seed=seed)
        spoilt = mislabel(clients, BAD / CLIENTS, "pair", seed=seed)
        bad = [i for i, (new, old) in enumerate(zip(spoilt, clients, strict=True)) if new is not old]
        seen: list[Tensor] = []
        for name, rule in rules(bad).items():

            def aggregate(messages: Tensor, _: Tensor | None = None) -> Tensor:
                seen.append(attacked(messages, bad, attack))  # noqa: B023 - it is called in this turn
                return rule(seen[0])  # noqa: B023 - likewise

            again = dirichlet_split(train, CLIENTS, alpha=options.dirichlet, seed=seed)
            again = mislabel(again, BAD / CLIENTS, "pair", seed=seed) if attack == "pair" else again
            release = CollabDM(
                ipc=10,
                networks=NETWORKS,
                model_args={"width": 16},
                matching_steps=200,
                aggregator=aggregate,
                privacy=PRIVACY,
                seed=seed,
            ).fit(again)
            score = evaluate(release.dataset, test, model_args={"width": 16}, seeds=[seed], epochs=150).mean
            found.setdefault(name, {}).setdefault(attack, []).append(100 * score)
print("| rule |", *(f"{attack} |" for attack in attacks))
print("| --- |", *("--- |" for _ in attacks))
for name, row in found.items():
    print(f"| {name} |", *(f"{statistics.fmean(s):.1f} ± {statistics.stdev(s):.1f} |" for s in row.values()))
print(f"\n{time.process_time() - begun:.0f} seconds of CPU")
