"""Accuracy against epsilon: a loop over budgets, and a plot of it.

python examples/privacy_utility_sweep.py [--quick] [OUTPUT.png]
"""

import sys

import torch
from matplotlib.figure import Figure

from private_distdd import DistDD, Privacy, dirichlet_split, evaluate, load_dataset

torch.set_num_threads(1)
quick = "--quick" in sys.argv[1:]
output = next((name for name in sys.argv[1:] if not name.startswith("-")), "privacy_utility.png")

train, test = load_dataset("digits")
epsilons, means, spreads = [1.0, 8.0] if quick else [0.5, 1.0, 2.0, 4.0, 8.0, 16.0], [], []
for epsilon in epsilons:
    clients = dirichlet_split(train, num_clients=5, seed=0)  # fresh clients: each point is its own federation
    privacy = Privacy(target_epsilon=epsilon, delta=1e-5)
    method = DistDD(
        ipc=10, rounds=3 if quick else 20, matching_steps=25, model_args={"width": 16}, privacy=privacy, seed=0
    )
    release = method.fit(clients)
    result = evaluate(release.dataset, test, model_args={"width": 32}, seeds=range(1 if quick else 3))
    means.append(result.mean)
    spreads.append(0.0 if quick else result.std)
    print(f"epsilon {epsilon:>4}: accuracy {result}")

figure = Figure(figsize=(5, 3.5), layout="constrained")
axes = figure.add_subplot(xscale="log", xlabel="epsilon of each client (delta = 1e-5)", ylabel="accuracy")
axes.errorbar(epsilons, means, yerr=spreads, marker="o", capsize=3)
figure.savefig(output, dpi=150)
print("plot:", output)
