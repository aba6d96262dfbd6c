"""Would memory over rounds tell attackers apart where one round cannot?

    python benchmarks/reputation.py [--seeds 0 1] [--dirichlet 1 0.1]

Digits, 20 clients of which 4 are bad, epsilon 8, 20 rounds of DistDD.  In each round every client is scored as
`aggregation.agreement` does, by the sum of its message's cosines with all others'; a reputation is the sum of a
client's scores so far.  Printed is how many of the 4 clients with the least are bad: by one round's scores, on average,
and by reputation after 1, 2, 5, 10 and 20 rounds.  By chance it is .8.  The run itself takes the mean.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time

import torch
from torch import Tensor

from private_distdd import DistDD, Privacy, dirichlet_split, load_dataset, mislabel
from private_distdd.simulation.attacks import Attacked

CLIENTS, BAD, ROUNDS = 20, 4, 20

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="public; noise is fresh in every run")
parser.add_argument("--dirichlet", type=float, nargs="+", default=[1.0, 0.1])
options = parser.parse_args()
torch.set_num_threads(1)
train, _ = load_dataset("digits")


def scores(messages: Tensor) -> Tensor:
    """Of one round, float64 [clients]."""
    ways = torch.nn.functional.normalize(messages.reshape(len(messages), -1).to(torch.float64))
    return (ways @ ways.T).fill_diagonal_(0).sum(dim=1)


begun = time.process_time()
print("| Dirichlet | attack | seed | one round | reputation after 1 | 2 | 5 | 10 | 20 |")
print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
for alpha, attack, seed in itertools.product(options.dirichlet, ("pair", "sign_flip", "inner_product"), options.seeds):
    clients = dirichlet_split(train, CLIENTS, alpha=alpha, seed=seed)
    spoilt = mislabel(clients, BAD / CLIENTS, "pair", seed=seed)
    bad = [i for i, (new, old) in enumerate(zip(spoilt, clients, strict=True)) if new is not old]
    rounds: list[Tensor] = []

    def aggregate(messages: Tensor, _: Tensor | None = None) -> Tensor:
        rounds.append(scores(messages))  # noqa: B023 - it is called in this turn
        return messages.mean(dim=0)

    method = DistDD(
        ipc=10,
        rounds=ROUNDS,
        matching_steps=25,
        model_args={"width": 16},
        aggregator=aggregate,
        privacy=Privacy(target_epsilon=8.0, delta=1e-5),
        seed=seed,
    )
    if attack == "pair":
        method.fit(spoilt)
    else:
        method.fit(Attacked(clients, [clients[i].client_id for i in bad], attack, seed=seed), info=train.info)

    def hits(score: Tensor) -> int:
        """How many of the 4 least are bad."""
        return len(set(score.argsort()[:BAD].tolist()) & set(bad))  # noqa: B023 - called in this turn

    once = statistics.fmean(map(hits, rounds))
    after = [hits(torch.stack(rounds[:t]).sum(dim=0)) for t in (1, 2, 5, 10, 20)]
    print(f"| {alpha:g} | {attack} | {seed} | {once:.2f} |", *(f"{count} |" for count in after), flush=True)
print(f"\n{time.process_time() - begun:.0f} seconds of CPU")
