"""Is S any good?  Train a fresh network on it, test on real data, over seeds and architectures.

The protocol is that of DC (Zhao, Mopuri and Bilen 2021, "Dataset Condensation with Gradient Matching", section 4 and
utils.evaluate_synset): SGD with learning rate 0.01, momentum 0.9 and weight decay 5e-4 on cross-entropy, 300 epochs in
batches of 256, the learning rate divided by 10 once, after half of the epochs; the accuracy after the last epoch is
the result.  DC averages over 20 networks of fresh random weights, and over 5 synthetic sets.
DC's published MNIST figures come from 1000 epochs with crops, scalings and rotations (its main.py and get_daparam);
`epochs=1000, augment=True` is the nearest to that here, shifts being the only augmentation.

Everything random here is public and seeded, and drawn from generators of its own: the default random states of torch
and numpy are left as they were.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from private_distdd.data.dataset import ImageDataset
from private_distdd.errors import ConfigurationError, DataError
from private_distdd.networks.device import require_device
from private_distdd.networks.spec import ModelSpec
from private_distdd.synthetic.dataset import SyntheticDataset
from private_distdd.validate import require_count, require_number


@dataclass(frozen=True)
class Evaluation:
    """Accuracies of networks that differ in their seed only.

    Args:
        model: the architecture.
        seeds: of initialisation, order and augmentation, one a network.
        accuracies: share of the test set that is classified rightly, in [0, 1], one a network.
    """

    model: ModelSpec
    seeds: tuple[int, ...]
    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean accuracy, in [0, 1]."""
        return statistics.fmean(self.accuracies)

    @property
    def std(self) -> float:
        """Sample standard deviation of the accuracies over seeds (divisor n - 1); NaN for a single seed."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else float("nan")

    def __str__(self) -> str:
        spread = f" ± {self.std:.1%}" if len(self.accuracies) > 1 else ""
        return f"{self.mean:.1%}{spread} ({self.model.name}, {len(self.seeds)} seed{'s'[: len(self.seeds) > 1]})"


def train_network(
    spec: ModelSpec,
    dataset: ImageDataset,
    *,
    epochs: int = 300,
    batch_size: int = 256,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    augment: bool = False,
    seed: int,
    device: str | torch.device = "cpu",
) -> nn.Module:
    """A network trained from scratch with DC's protocol; returned on `device`, in evaluation mode.

    Args:
        spec: the architecture.
        dataset: synthetic examples (mosaics' parts enlarged, see `SyntheticDataset`) or real ones, at least one.
        epochs: at least 1; the learning rate falls to a tenth after epochs // 2 + 1 of them.  (DC's code also
            forgets the momentum there, and runs one epoch more.)
        augment: shift every image, each time it is seen, by whole pixels drawn uniformly from -H/8 ... H/8 and
            -W/8 ... W/8 (at least 1), filling with black.  (DC crops with 4 of 32 pixels, and also scales and rotates.)
            False for tables.
        seed: of the initial weights, the order and the shifts.

    Raises:
        ConfigurationError: an argument is outside its range, or rows of a table are to be augmented.
        DataError: the data set is empty.
        ModelError: the model cannot be built for these examples.
    """
    require_count("epochs", epochs, "The protocol's are 300.")
    require_count("batch_size", batch_size, "The protocol's is 256.")
    for name, value in (("momentum", momentum), ("weight_decay", weight_decay)):
        require_number(name, value, math.nextafter(0, -1), math.inf, "a finite number of at least 0", "Correct it.")
    require_number("learning_rate", learning_rate, 0, math.inf, "a finite number > 0", "The protocol's is 0.01.")
    require_device(device)
    if not len(dataset):
        raise DataError("an empty training set", "at least one example", "Train on something.")
    if isinstance(dataset, SyntheticDataset):
        dataset = dataset.expanded()
    info = dataset.info
    if augment:  # what cannot be is refused before anything is built
        info.augment(dataset.images[:1], torch.Generator())
    network = spec.build(info.shape, info.num_classes, seed).to(device).train()
    images, labels = dataset.images.to(device), dataset.labels.to(device)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(network.parameters(), learning_rate, momentum=momentum, weight_decay=weight_decay)
    for epoch in range(epochs):
        if epoch == epochs // 2 + 1:
            optimizer.param_groups[0]["lr"] = learning_rate / 10
        order = torch.randperm(len(labels), generator=generator)
        for start in range(0, len(labels), batch_size):
            chosen = order[start : start + batch_size].to(device)
            batch = info.augment(images[chosen], generator) if augment else images[chosen]
            optimizer.zero_grad()
            loss = F.cross_entropy(network(batch), labels[chosen])
            torch.autograd.backward(loss)
            optimizer.step()
    return network.eval()


def accuracy(
    network: nn.Module, dataset: ImageDataset, *, batch_size: int = 512, device: str | torch.device = "cpu"
) -> float:
    """Share of `dataset` that `network` (on `device`; used in the mode it is in) classifies rightly, in [0, 1].

    Raises:
        DataError: the data set is empty.
    """
    if not len(dataset):
        raise DataError("an empty test set", "at least one example", "Test on something.")
    if isinstance(dataset, SyntheticDataset):
        dataset = dataset.expanded()
    right = 0
    with torch.inference_mode():
        for images, labels in zip(
            torch.split(dataset.images, batch_size), torch.split(dataset.labels, batch_size), strict=True
        ):
            right += int((network(images.to(device)).argmax(dim=1).cpu() == labels).sum())
    return right / len(dataset)


def evaluate(
    dataset: ImageDataset,
    test: ImageDataset,
    *,
    model: str = "convnet",
    model_args: Mapping[str, Any] | None = None,
    seeds: Iterable[int] = range(3),
    epochs: int = 300,
    batch_size: int = 256,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    augment: bool = False,
    device: str | torch.device = "cpu",
) -> Evaluation:
    """Train one fresh network a seed on `dataset` and score each on `test`.

    Args:
        dataset: a `SyntheticDataset` or any `ImageDataset`.
        test: real examples, normalised with the same public constants.
        model: name of a registered model.
        model_args: its arguments.
        seeds: one network each; at least one.
        epochs: see `train_network`.
        batch_size: see `train_network`.
        learning_rate: see `train_network`.
        momentum: see `train_network`.
        weight_decay: see `train_network`.
        augment: see `train_network`.
        device: see `train_network`.

    Raises:
        DataError: the two sets differ in shape, classes or normalisation, or one is empty.
        ConfigurationError, ModelError: see `train_network`.
    """
    for name in ("shape", "num_classes", "mean", "std"):
        trained, tested = getattr(dataset.info, name), getattr(test.info, name)
        if trained != tested:
            raise DataError(
                f"test set with {name} {tested}, training set with {trained}",
                "the same shape, classes and normalisation",
                "Load the test set with load_dataset(..., mean=, std=) of the training set's info.",
            )
    if not len(test):  # before the minutes of training
        raise DataError("an empty test set", "at least one example", "Test on something.")
    seeds = tuple(seeds)
    if not seeds:
        raise ConfigurationError("no seeds", "at least one", "Pass seeds=range(3).")
    spec = ModelSpec(model, model_args or {})
    accuracies = []
    for seed in seeds:
        network = train_network(
            spec,
            dataset,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
            augment=augment,
            seed=seed,
            device=device,
        )
        accuracies.append(accuracy(network, test, device=device))
    return Evaluation(spec, seeds, tuple(accuracies))
