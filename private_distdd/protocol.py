"""A network trained from scratch on examples, real or synthetic, and its scores on real ones.

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
from collections.abc import Callable

import torch
from torch import Tensor, nn

from private_distdd.data.dataset import ImageDataset
from private_distdd.errors import ConfigurationError, DataError
from private_distdd.networks.device import require_device
from private_distdd.networks.scores import Scores
from private_distdd.networks.spec import ModelSpec
from private_distdd.networks.training import train
from private_distdd.synthetic.dataset import SyntheticDataset
from private_distdd.validate import require_count, require_number

_VALUES = 512 * 3 * 32 * 32  # of the examples that are classified at a time: 512 of CIFAR-10, 10 of 224 x 224 pixels


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
