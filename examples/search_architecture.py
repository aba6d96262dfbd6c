"""Use case B: search an architecture on a private S, which costs no further privacy; or ask the clients in every trial.

python examples/search_architecture.py [--quick] [--trials N] [--dataset digits] [--root FOLDER] [--output FILE]

The clients distil S once, at epsilon 8.  Networks that differ in depth, width, norm, activation and pooling are then
trained on S, and FedAvg is run once with the winner, at epsilon 8 again.  Beside it every trial is repeated by FedAvg
at epsilon 8 on clients whose ledgers add up what that costs them: the bill is printed.  Trials are scored on images of
the server's own; the test set scores the two winners, once.  Minutes on one core.
"""

from __future__ import annotations

import time
from typing import Any

from use_cases.study import Trial, arguments, best, federated, parts, report, search, timed_evaluation, traffic

from private_distdd import Client, DistDD, FedAvg, Privacy, dirichlet_split, load_dataset
from private_distdd.protocol import accuracy

CLIENTS, RATE = 5, 0.2


def spent(clients: list[Client], delta: float) -> float:
    """The largest epsilon that a client's ledger adds up to."""
    return max(client.ledger.epsilon(delta) for client in clients)


def main() -> None:
    options = arguments(__doc__, "search_architecture")
    quick, count = options.quick, options.trials or (3 if options.quick else 16)

    train, test = load_dataset(options.dataset, root=options.root)
    shared, held = parts(train)
    privacy = Privacy(target_epsilon=8.0, delta=1e-5)
    local = Privacy(target_epsilon=8.0, delta=1e-5, sample_rate=RATE, divisor=RATE * len(shared) / CLIENTS)
    asked_once, asked_often = (dirichlet_split(shared, num_clients=CLIENTS, alpha=100.0, seed=0) for _ in range(2))
    begun = time.perf_counter()
    s = DistDD(ipc=10, rounds=3 if quick else 20, matching_steps=25, model_args={"width": 16}, privacy=privacy).fit(
        asked_once
    )
    distilled = time.perf_counter() - begun

    def fedavg(architecture: dict[str, Any]) -> FedAvg:
        rounds = 2 if quick else 10
        return FedAvg(rounds=rounds, local_steps=5, learning_rate=0.3, model_args=architecture, privacy=local)

    def suggest(trial: Any) -> dict[str, Any]:
        return {
            "depth": trial.suggest_int("depth", 1, 2),
            "width": trial.suggest_categorical("width", [4, 8, 16, 32]),
            "norm": trial.suggest_categorical("norm", ["instance", "group", "none"]),
            "activation": trial.suggest_categorical("activation", ["relu", "tanh", "gelu"]),
            "pooling": trial.suggest_categorical("pooling", ["average", "max"]),
        }

    def score(architecture: dict[str, Any]) -> Trial:
        found = timed_evaluation(s.dataset, held, epochs=30 if quick else 100, model_args=architecture)
        return Trial(architecture, *found, *federated(fedavg(architecture), asked_often, held))

    trials = search(suggest, score, count)
    *_, of_s = federated(fedavg(dict(best(trials, "on_s").knobs)), asked_once, held)
    winners = {
        "FedAvg with the best architecture on S": accuracy(of_s, test),
        "FedAvg with the best architecture by FedAvg": accuracy(best(trials, "by_fedavg").network, test),
    }
    bill = {
        "S, the search on it, and one FedAvg": spent(asked_once, privacy.delta),
        f"FedAvg in each of {len(trials)} trials": spent(asked_often, privacy.delta),
    }
    report(trials, (distilled, traffic(s)), winners, options.output, bill)


if __name__ == "__main__":
    main()
