"""Use case A: tune on S, and ask the clients once more; or ask them again in every trial.  Minutes on one core.

python examples/tune_hyperparameters.py [--quick] [--trials N] [--dataset digits] [--root FOLDER] [--output FILE]

The clients distil S once.  An Optuna study of learning rate, batch size and epochs then trains on S alone, and FedAvg
is run once with its winner.  Beside it every trial is repeated by FedAvg on the clients, which is what a server without
S would do: four epochs on S are taken for a round of 10 local steps.  The optimiser is plain SGD on both sides, for
that is what the library's clients do.  Trials are scored on images of the server's own; the test set scores the two
winners, once.  Nothing here is private: see search_architecture.py for that.
"""

from __future__ import annotations

import time
import warnings
from typing import Any

from use_cases.study import Trial, arguments, best, federated, parts, report, search, timed_evaluation, traffic

from private_distdd import DistDD, FedAvg, NotPrivateWarning, dirichlet_split, load_dataset
from private_distdd.protocol import accuracy


def main() -> None:
    options = arguments(__doc__, "tune_hyperparameters")
    warnings.simplefilter("ignore", NotPrivateWarning)  # said above
    quick, count = options.quick, options.trials or (4 if options.quick else 16)
    network = {"model_args": {"width": 16}}

    train, test = load_dataset(options.dataset, root=options.root)
    shared, held = parts(train)
    clients = dirichlet_split(shared, num_clients=10, alpha=1.0, seed=0)
    begun = time.perf_counter()
    s = DistDD(ipc=10, rounds=5 if quick else 30, **network).fit(clients)
    distilled = time.perf_counter() - begun

    def fedavg(knobs: dict[str, Any]) -> FedAvg:
        rounds = max(1, knobs["epochs"] // 4)
        return FedAvg(rounds=rounds, learning_rate=knobs["learning rate"], batch_size=knobs["batch size"], **network)

    def suggest(trial: Any) -> dict[str, Any]:
        return {
            "learning rate": trial.suggest_float("learning rate", 0.003, 1.0, log=True),
            "batch size": trial.suggest_categorical("batch size", [8, 32, 100]),
            "epochs": trial.suggest_int("epochs", 8, 40 if quick else 120, log=True),
        }

    def score(knobs: dict[str, Any]) -> Trial:
        on_s = {name.replace(" ", "_"): value for name, value in knobs.items()}
        found = timed_evaluation(s.dataset, held, momentum=0.0, **on_s, **network)
        return Trial(knobs, *found, *federated(fedavg(knobs), clients, held))

    trials = search(suggest, score, count)
    # Without noise FedAvg with a winner is, to the bit, that of its trial: nothing is to be run again.
    winners = {
        f"FedAvg with the best setting {where}": accuracy(best(trials, score).network, test)
        for score, where in (("on_s", "on S"), ("by_fedavg", "by FedAvg"))
    }
    report(trials, (distilled, traffic(s)), winners, options.output)


if __name__ == "__main__":
    main()
