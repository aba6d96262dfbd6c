"""A table instead of images: wines told apart by 13 numbers, from three clients.

It takes some seconds.

python examples/tables.py [--quick]
"""

import sys
import tempfile
from pathlib import Path

import torch

from private_distdd import (
    DistDD,
    Privacy,
    Release,
    dirichlet_split,
    evaluate,
    load_dataset,
)

torch.set_num_threads(1)
quick = "--quick" in sys.argv[1:]

# Each number is scaled by two public constants, which are printed beside this published
# table.  For your own table load_dataset("file.csv", label="column", classes=[...],
# mean=[...], std=[...]) takes them from you, not from the rows.
train, test = load_dataset("wine")
clients = dirichlet_split(train, num_clients=3, alpha=1.0, seed=0)

# Convolutions have nothing to slide over in a table: "mlp" is the network for it.
privacy = Privacy(target_epsilon=8.0, delta=1e-5, sample_rate=1.0, max_grad_norm=0.3)
rounds = 2 if quick else 5
method = DistDD(ipc=10, rounds=rounds, matching_steps=25, model="mlp", privacy=privacy)
release = method.fit(clients, progress=True)

for client_id, epsilon in release.epsilon.items():
    print(f"{client_id}: epsilon = {epsilon:.2f} at delta = {privacy.delta:g}")
seeds = range(1 if quick else 5)
print(
    f"trained on {len(release.dataset)} rows of S:",
    evaluate(release.dataset, test, model="mlp", seeds=seeds),
)
print(
    f"trained on {len(train)} real rows:",
    evaluate(train, test, model="mlp", seeds=seeds),
)

with tempfile.TemporaryDirectory() as folder:
    # preview.png there is a scatter plot of S, with one colour for each class.
    path = release.save(Path(folder) / "wine")
    Release.load(path).verify()
    print("saved, loaded and verified")
