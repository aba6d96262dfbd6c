"""Your own data: any map-style torch Dataset, and a model of your own.

Each client has one long-lived ledger with a budget.

python examples/own_dataset.py [--quick]
"""

import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from private_distdd import (
    Budget,
    Client,
    DistDD,
    Ledger,
    Privacy,
    from_torch,
    register_model,
)

torch.set_num_threads(1)
quick = "--quick" in sys.argv[1:]


class Stripes(Dataset[tuple[Tensor, int]]):
    """Striped 12 x 12 images in [0, 1]: class 0 horizontal, class 1 vertical."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        generator = torch.Generator().manual_seed(1000 * self.seed + index)
        stripes = (torch.arange(12).view(12, 1) // 2 % 2).float().expand(12, 12)
        label = index % 2
        noise = torch.randn(12, 12, generator=generator)
        noisy = (stripes if label == 0 else stripes.T) + 0.3 * noise
        return noisy.clamp(0, 1).unsqueeze(0), label


# The name crosses the wire, never the code: every client's process registers it, too.
@register_model("two_layers")
def two_layers(
    shape: tuple[int, int, int],
    num_classes: int,
    *,
    width: int = 16,
) -> nn.Module:
    pixels = shape[0] * shape[1] * shape[2]
    first, second = nn.Linear(pixels, width), nn.Linear(width, num_classes)
    return nn.Sequential(nn.Flatten(), first, nn.Tanh(), second)


with tempfile.TemporaryDirectory() as folder:
    clients = []
    for i in range(3):
        # Class list and normalisation are public constants, never read off the data.
        data = from_torch(
            Stripes(60 if quick else 300, seed=i),
            num_classes=2,
            name="stripes",
            mean=0.5,
            std=0.5,
        )
        budget = Budget(epsilon=10.0, delta=1e-5)
        ledger = Ledger(Path(folder) / f"site-{i}.jsonl", budget)
        clients.append(Client(f"site-{i}", data, ledger))
    privacy = Privacy(target_epsilon=4.0, delta=1e-5)
    rounds = 2 if quick else 10
    method = DistDD(ipc=2, rounds=rounds, model="two_layers", privacy=privacy)
    release = method.fit(clients, progress=True)
    print("images:", tuple(release.dataset.images.shape))
    for client in clients:
        spent, lines = client.ledger.epsilon(1e-5), len(client.ledger)
        print(f"{client.client_id}: {spent:.2f} of 10 spent, {lines} ledger lines")
        client.ledger.close()
    print("saved to", release.save(Path(folder) / "release"))
