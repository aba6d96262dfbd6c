"""Is S any good?  Train fresh networks on it by DC's protocol, test on real data, over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError, DataError
from private_distdd.networks.scores import Scores
from private_distdd.networks.spec import ModelSpec
from private_distdd.progress import showing
from private_distdd.protocol import scores_of, train_network
from private_distdd.validate import require_count, require_kind, require_number

LABELS = ("hard", "soft", "mixed")


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
