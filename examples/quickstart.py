"""Distil scikit-learn's digits from five clients at epsilon 8, and train on the result.

It takes about 20 seconds on one core.

python examples/quickstart.py [--quick]
"""

import sys

import torch

from private_distdd import DistDD, Privacy, dirichlet_split, evaluate, load_dataset

# Small networks: two threads on a busy machine can be ten times slower.
torch.set_num_threads(1)
quick = "--quick" in sys.argv[1:]

train, test = load_dataset("digits")
clients = dirichlet_split(train, num_clients=5, alpha=1.0, seed=0)

privacy = Privacy(target_epsilon=8.0, delta=1e-5)
method = DistDD(
    ipc=10,
    rounds=2 if quick else 20,
    matching_steps=25,
    model_args={"width": 16},
    privacy=privacy,
)
release = method.fit(clients, progress=True)

for client_id, epsilon in release.epsilon.items():
    print(f"{client_id}: epsilon = {epsilon:.2f} at delta = {privacy.delta:g}")
print(
    "trained on S, tested on real images:",
    evaluate(release.dataset, test, model_args={"width": 32}, seeds=range(1)),
)

# S is an ordinary torch Dataset: tune, search architectures, train again, all without
# asking the clients.
loader = torch.utils.data.DataLoader(release.dataset, batch_size=100)
images, labels = next(iter(loader))
print("one batch of S:", tuple(images.shape), tuple(labels.shape))
