"""A generator of your own: any nn.Module, with its weights from a safetensors file.

python examples/own_generator.py [--quick]

Here the module is small, and drawn from strokes that nobody owns; a StyleGAN's layers would be loaded the same way.
"""

import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from private_distdd import FedDGM, Generator, Privacy, Release, dirichlet_split, evaluate, load_dataset

torch.set_num_threads(1)
quick = "--quick" in sys.argv[1:]


def decoder() -> nn.Sequential:
    """Latents [n, 4, 2, 2] to pixels in [0, 1], [n, 1, 8, 8]."""
    return nn.Sequential(
        nn.Upsample(scale_factor=4, mode="bilinear"),
        nn.Conv2d(4, 32, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(32, 1, 3, padding=1),
        nn.Sigmoid(),
    )


def strokes(count: int) -> Tensor:
    """Pictures of two random lines each, float32 [count, 1, 8, 8]."""
    generator = torch.Generator().manual_seed(0)
    ends = 7 * torch.rand(count, 2, 2, 2, generator=generator)  # two lines of two ends, row and column
    along = torch.linspace(0, 1, 12)[:, None]
    points = ends[:, :, :1] * along + ends[:, :, 1:] * (1 - along)
    row, column = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    places = torch.stack([row, column], dim=-1).reshape(1, 64, 1, 2)
    distance = (places - points.reshape(count, 1, 24, 2)).square().sum(-1).amin(-1)
    return torch.exp(-distance).reshape(count, 1, 8, 8)


def trained(checkpoint: Path, epochs: int) -> None:
    """An autoencoder of strokes; its decoder's weights go into the file."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1, stride=2), nn.LeakyReLU(0.2), nn.Conv2d(32, 4, 2, stride=2))
    own, pictures = decoder(), strokes(2000)
    optimizer = torch.optim.Adam([*encoder.parameters(), *own.parameters()], lr=2e-3)
    for _ in range(epochs):
        for batch in torch.split(pictures, 100):
            latents = F.group_norm(encoder(batch), 1)  # as the noise is from which S starts
            optimizer.zero_grad()
            F.mse_loss(own(latents), batch).backward()
            optimizer.step()
    Generator(own, (4, 2, 2), "strokes", "random lines").save(checkpoint)


with tempfile.TemporaryDirectory() as folder:
    trained(Path(folder) / "strokes.safetensors", epochs=2 if quick else 20)
    generator = Generator.loaded(
        decoder(),
        Path(folder) / "strokes.safetensors",
        latent_shape=(4, 2, 2),
        name="strokes",
        seen="random lines",  # what you say here is what the card says: no private example may be among it
        layer="2",  # the first layer's result is changed beside the latents; leave it out to change these alone
    )
    train, test = load_dataset("digits")
    clients = dirichlet_split(train, num_clients=5, alpha=1.0, seed=0)
    # A step is along the sum over b: b is near the number of examples that a client's coins take.
    privacy = Privacy(target_epsilon=8.0, delta=1e-5, sample_rate=0.2, divisor=50.0)
    method = FedDGM(
        ipc=5,
        starts=2 if quick else 10,
        surrogate_steps=3 if quick else 10,
        matching_steps=5 if quick else 200,
        parametrisation=generator,
        privacy=privacy,
    )
    release = method.fit(clients, progress=True)
    saved = Release.load(release.save(Path(folder) / "release"))
    saved.verify()
    print("epsilon of each client:", round(max(saved.epsilon.values()), 2))
    print("the card says:", saved.card["method"]["settings"]["parametrisation"])
    print("trained on S:", evaluate(saved.dataset, test, seeds=[0], epochs=5 if quick else 300))
