"""Is S any good?  Train a fresh network on it, test on real data, over seeds and architectures.

The protocol is that of DC (Zhao, Mopuri and Bilen 2021, "Dataset Condensation with Gradient Matching", section 4 and
utils.evaluate_synset): SGD with learning rate 0.01, momentum 0.9 and weight decay 5e-4 on cross-entropy, 300 epochs in
batches of 256, the learning rate divided by 10 once, after half of the epochs; the accuracy after the last epoch is
the result.  DC averages over 20 networks of fresh random weights, and over 5 synthetic sets.
DC's published MNIST figures come from 1000 epochs with crops, scalings and rotations (its main.py and get_daparam);
`epochs=1000, augment=True` is the nearest to that here, shifts being the only augmentation.

With soft labels it is another protocol, which every result names: the loss is, or is mixed with, the cross-entropy to a
distribution over the classes.

Everything random here is public and seeded, and drawn from generators of its own: the default random states of torch
and numpy are left as they were.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError, DataError
from private_distdd.networks.device import require_device
from private_distdd.networks.scores import Scores
from private_distdd.networks.spec import ModelSpec
from private_distdd.networks.training import train
from private_distdd.progress import showing
from private_distdd.synthetic.dataset import SyntheticDataset
from private_distdd.validate import require_count, require_kind, require_number

LABELS = ("hard", "soft", "mixed")
_VALUES = 512 * 3 * 32 * 32  # of the examples that are classified at a time: 512 of CIFAR-10, 10 of 224 x 224 pixels


@dataclass(frozen=True)
class Evaluation:
    """Accuracies of networks that differ in their seed only.

    Args:
        model: the architecture.
        seeds: of initialisation, order and augmentation, one a network.
        scores: what each made of the test set, one a network.
        soft_weight: share of the soft labels in the loss, in [0, 1].
    """

    model: ModelSpec
    seeds: tuple[int, ...]
    scores: tuple[Scores, ...]
    soft_weight: float = 0.0

    @property
    def accuracies(self) -> tuple[float, ...]:
        """Share of the test set that is classified rightly, in [0, 1], one a network."""
        return tuple(own.accuracy for own in self.scores)

    @property
    def labels(self) -> str:
        """What was trained on: "hard", "soft" or "mixed".  Results of different ones are not to be compared."""
        return {0.0: "hard", 1.0: "soft"}.get(self.soft_weight, "mixed")

    @property
    def mean(self) -> float:
        """Mean accuracy, in [0, 1]."""
        return statistics.fmean(self.accuracies)

    @property
    def std(self) -> float:
        """Sample standard deviation of the accuracies over seeds (divisor n - 1); NaN for a single seed."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else float("nan")

    @property
    def balanced_accuracy(self) -> float:
        """Mean over the networks of `Scores.balanced_accuracy`, in [0, 1]."""
        return statistics.fmean(own.balanced_accuracy for own in self.scores)

    @property
    def auc(self) -> float:
        """Mean over the networks of `Scores.auc`, in [0, 1]."""
        return statistics.fmean(own.auc for own in self.scores)

    @property
    def confusion(self) -> tuple[tuple[int, ...], ...]:
        """Sum over the networks of `Scores.confusion`: test examples by true class and by what they were taken for."""
        matrices = [own.confusion for own in self.scores]
        return tuple(tuple(map(sum, zip(*rows, strict=True))) for rows in zip(*matrices, strict=True))

    def __repr__(self) -> str:
        return f"Evaluation({self})"

    def __str__(self) -> str:
        spread = f" ± {self.std:.1%}" if len(self.accuracies) > 1 else ""
        mixed = f", {self.soft_weight:.0%} soft" if self.labels == "mixed" else ""
        protocol = "" if self.labels == "hard" else f", {self.labels} labels{mixed}"
        seeds = f"{len(self.seeds)} seed{'s'[: len(self.seeds) > 1]}"
        return f"{self.mean:.1%}{spread} ({self.model.name}, {seeds}{protocol})"


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
    soft_weight: float = 0.0,
    seed: int,
    device: str | torch.device = "cpu",
    report: Callable[[int], object] = lambda epochs: None,
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
        soft_weight: w in [0, 1]; the loss is 1 - w times the cross-entropy to the labels and w times that to the soft
            labels, which the set must have where w > 0.
        seed: of the initial weights, the order and the shifts.
        report: called after each epoch with how many are done.

    Raises:
        ConfigurationError: an argument is outside its range, rows of a table are to be augmented, or the set has no
            soft labels.
        DataError: the data set is empty.
        ModelError: the model cannot be built for these examples.
    """
    require_count("epochs", epochs, "The protocol's are 300.")
    require_count("batch_size", batch_size, "The protocol's is 256.")
    for name, value in (("momentum", momentum), ("weight_decay", weight_decay)):
        require_number(name, value, math.nextafter(0, -1), math.inf, "a finite number of at least 0", "Correct it.")
    require_number("learning_rate", learning_rate, 0, math.inf, "a finite number > 0", "The protocol's is 0.01.")
    require_number(
        "soft_weight", soft_weight, math.nextafter(0, -1), math.nextafter(1, 2), "a number in [0, 1]", "0: hard labels."
    )
    require_device(device)
    if not len(dataset):
        raise DataError("an empty training set", "at least one example", "Train on something.")
    if isinstance(dataset, SyntheticDataset):
        dataset = dataset.expanded()
    info = dataset.info
    if augment:  # what cannot be is refused before anything is built
        info.augment(dataset.images[:1], torch.Generator())
    images, targets = dataset.images.to(device), _targets(dataset, soft_weight).to(device)
    network = spec.build(info.shape, info.num_classes, seed).to(device).train()
    generator = torch.Generator().manual_seed(seed)
    train(
        network,
        images,
        targets,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        momentum=momentum,
        weight_decay=weight_decay,
        generator=generator,
        augment=(lambda batch: info.augment(batch, generator)) if augment else None,
        report=report,
    )
    return network.eval()


def _targets(dataset: ImageDataset, soft_weight: float) -> Tensor:
    """What the cross-entropy is to: int64 [n], or float32 [n, classes] where soft labels have a share in it.

    Raises:
        ConfigurationError: they do, and the set has none.
    """
    if not soft_weight:
        return dataset.labels
    if not isinstance(dataset, SyntheticDataset):
        raise ConfigurationError(
            f"soft labels of an object of type {type(dataset).__name__}",
            "a SyntheticDataset that has some",
            "Train on hard labels.",
        )
    return dataset.targets(soft_weight)


def accuracy(
    network: nn.Module, dataset: ImageDataset, *, batch_size: int | None = None, device: str | torch.device = "cpu"
) -> float:
    """Share of `dataset` that `network` classifies rightly, in [0, 1]: `scores_of(...).accuracy`."""
    return scores_of(network, dataset, batch_size=batch_size, device=device).accuracy


def scores_of(
    network: nn.Module, dataset: ImageDataset, *, batch_size: int | None = None, device: str | torch.device = "cpu"
) -> Scores:
    """How well `network` (on `device`; used in the mode it is in) classifies `dataset`.

    Args:
        network: from examples [n, *shape] to logits [n, classes].
        dataset: at least one example.
        batch_size: examples classified at a time; by default as many as 512 of CIFAR-10 have pixels.
        device: where.

    Raises:
        DataError: the data set is empty.
    """
    if not len(dataset):
        raise DataError("an empty test set", "at least one example", "Test on something.")
    if isinstance(dataset, SyntheticDataset):
        dataset = dataset.expanded()
    size = batch_size or max(1, min(512, _VALUES // dataset.images[0].numel()))
    with torch.inference_mode():
        logits = [network(images.to(device)).cpu() for images in torch.split(dataset.images, size)]
        return Scores.of(torch.cat(logits), dataset.labels)


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
    labels: str = "hard",
    soft_weight: float = 0.7,
    device: str | torch.device = "cpu",
    progress: bool = False,
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
        labels: what is trained on: "hard" labels, "soft" ones, or both: "mixed".
        soft_weight: share of the soft labels in "mixed", in (0, 1).
        device: see `train_network`.
        progress: show the epochs that are done, the time left and the accuracy so far, on standard error.

    Raises:
        DataError: the two sets differ in shape, classes or normalisation, or one is empty.
        ConfigurationError, ModelError: see `train_network`.
    """
    for name, given in (("dataset", dataset), ("test", test)):
        remedy = "Of a release take release.dataset, of load_dataset's pair (train, test) the second."
        require_kind(name, given, ImageDataset, "an ImageDataset, which a SyntheticDataset is", remedy)
    require_kind("seeds", seeds, Iterable, "whole numbers, one a network", "Pass seeds=range(3).")
    require_alike(dataset.info, test.info)
    weight = _soft_weight(labels, soft_weight)
    if not len(test):  # before the minutes of training
        raise DataError("an empty test set", "at least one example", "Test on something.")
    seeds = tuple(seeds)
    if not seeds:
        raise ConfigurationError("no seeds", "at least one", "Pass seeds=range(3).")
    spec = ModelSpec(model, model_args or {})
    require_count("epochs", epochs, "The protocol's are 300.")
    scores: list[Scores] = []
    with showing(len(seeds) * epochs, unit="epoch", shown=progress) as shown:

        def words() -> str:
            return f"accuracy of {len(scores)} so far {statistics.fmean(own.accuracy for own in scores):.1%}"

        def tell(epoch: int) -> None:
            shown.at(len(scores) * epochs + epoch)

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
                soft_weight=weight,
                seed=seed,
                device=device,
                report=tell,
            )
            shown.say(f"network {len(scores) + 1} of {len(seeds)} is tested")
            scores.append(scores_of(network, test, device=device))
            shown.at(len(scores) * epochs, words)
    return Evaluation(spec, seeds, tuple(scores), weight)


def require_alike(trained: DatasetInfo, tested: DatasetInfo) -> None:
    """Refuse a test set of another kind than a network was trained for.

    Raises:
        DataError: the two differ in shape, classes or normalisation.
    """
    for name in ("shape", "num_classes", "mean", "std"):
        own, others = getattr(trained, name), getattr(tested, name)
        if own != others:
            raise DataError(
                f"test set with {name} {others}, training set with {own}",
                "the same shape, classes and normalisation",
                "Load the test set with load_dataset(..., mean=, std=) of the training set's info.",
            )
    if trained.classes and tested.classes and trained.classes != tested.classes:
        raise DataError(
            f"test set with classes {list(tested.classes)}, training set with {list(trained.classes)}",
            "the same names in the same order",
            "Load the test set with load_dataset(..., classes=) of the training set's info.",
        )


def _soft_weight(labels: str, mixed: float) -> float:
    if labels not in LABELS:
        raise ConfigurationError(f"labels = {labels!r}", f"one of {LABELS}", "'hard' is DC's protocol.")
    require_number("soft_weight", mixed, 0, 1, "a number in (0, 1)", "labels='hard' and labels='soft' are the ends.")
    return {"hard": 0.0, "soft": 1.0}.get(labels, mixed)
