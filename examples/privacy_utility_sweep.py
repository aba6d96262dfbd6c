"""Accuracy against epsilon, as a sweep: its page shows the frontier, and a second run goes on where one was stopped.

python examples/privacy_utility_sweep.py [--quick] [FOLDER]
"""

import sys

import torch

from private_distdd import sweep

torch.set_num_threads(1)
quick = "--quick" in sys.argv[1:]
folder = next((name for name in sys.argv[1:] if not name.startswith("-")), "privacy_utility")

config = {
    "data": {"dataset": "digits"},
    "split": {"num_clients": 5},
    "method": {"name": "distdd", "rounds": 3 if quick else 20, "matching_steps": 25, "model_args": {"width": 16}},
    "privacy": {"target_epsilon": [1, 8] if quick else [0.5, 1, 2, 4, 8, 16], "delta": 1e-5},  # a list is swept
    "evaluation": {"model_args": {"width": 32}, "networks": 1 if quick else 3},  # on images held out of training
    "seeds": [0] if quick else [0, 1, 2],
}
for record in sweep(config, folder, progress=True):
    print(f"epsilon {record['epsilon']:.2f}: accuracy {record['accuracy']:.1%}")
print(f"page: {folder}/sweep.html")
