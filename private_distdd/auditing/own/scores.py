"""How much a release seems to know an example: scores that anybody who holds the release can compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from private_distdd.auditing.bounds import Scores
from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.networks.spec import ModelSpec
from private_distdd.progress import showing
from private_distdd.protocol import train_network
from private_distdd.release.contents import Contents

_CHUNK = 1024  # examples at a time
_GREY = 1.001 / 255  # one level of an 8-bit pixel, and float32's rounding
_SAME = 1e-4  # of a table's normalised values: two rows that agree so well are one
_WIDTH = 32  # of the ConvNets trained on S
_BLIND_SIDE, _TREES = 12, 64


class Nearest(NamedTuple):
    """Of each example, the nearest one of S.

    Args:
        place: of it, among what S yields, int64 [n].
        distance: root mean square difference a value, on the networks' scale, float64 [n].
        copied: are the two the same, to one grey level (a table's values: to 10^-4)?  bool [n].
    """

    place: NDArray[np.int64]
    distance: Scores
    copied: NDArray[np.bool_]


def nearest(examples: ImageDataset, synthetic: Tensor) -> Nearest:
    """See `Nearest`; labels are not looked at.

    Args:
        examples: normalised as S is.
        synthetic: what S yields, float32 [m, *shape].
    """
    rows, info = synthetic.flatten(1), examples.info
    parts = []
    for own in torch.split(examples.images, _CHUNK):
        index = torch.cdist(own.flatten(1), rows).argmin(dim=1)
        found = synthetic[index]
        # cdist rounds: the distance to the one that was found is computed again, so that a copy's is 0.
        distance = (own - found).flatten(1).to(torch.float64).square().mean(dim=1).sqrt()
        apart, most = (own - found).abs(), _SAME
        if info.bounds is not None:
            apart, most = (info.denormalise(own) - info.denormalise(found)).abs(), _GREY
        parts.append((index, distance, apart.flatten(1).amax(dim=1) <= most))
    place, distance, copied = (torch.cat(column) for column in zip(*parts, strict=True))
    return Nearest(place.numpy(), distance.numpy(), copied.numpy())


def confidence(network: nn.Module, examples: ImageDataset) -> Scores:
    """log p / (1 - p) of a network's probability p for each example's own class, float64 [n]; 0 where it is NaN.

    Source: Carlini et al. 2022, "Membership Inference Attacks From First Principles", section IV: of the functions of
    the loss this one is nearest to a Gaussian.
    """
    found = []
    network.eval()
    with torch.no_grad():
        for images, labels in zip(
            torch.split(examples.images, _CHUNK), torch.split(examples.labels, _CHUNK), strict=True
        ):
            logits = network(images).to(torch.float64)
            own = F.one_hot(labels, logits.shape[1]).bool()
            others = logits.masked_fill(own, -torch.inf).logsumexp(dim=1)
            found.append(logits[own] - others)
    return np.asarray(np.nan_to_num(torch.cat(found).numpy()))


def scores_by(
    release: Contents, examples: ImageDataset, networks: int, epochs: int, seed: int = 0, *, progress: bool = False
) -> Mapping[str, Scores]:
    """Scores of each example by what the release holds, float64 [n] each; larger means "was there".

    "nearest": minus the distance to the nearest example of S.  "trained": the mean `confidence` of networks that were
    trained on S.  "classifier": the `confidence` of the release's own network, where it has one.

    Args:
        release: holds S, or a network, or both.
        examples: of its shape and classes, normalised as S is.
        networks: trained on S, >= 1.
        epochs: of each, >= 1.
        seed: of the first network; the others have the next ones.
        progress: show the epochs that are done, on standard error.
    """
    found: dict[str, Scores] = {}
    if release.synthetic is not None:
        synthetic = release.synthetic.expanded()
        found["nearest"] = -nearest(examples, synthetic.images).distance
        trained = []
        with showing(networks * epochs, unit="epoch", shown=progress) as shown:
            for i in range(networks):

                def tell(done: int, before: int = i * epochs) -> None:
                    shown.at(before + done)

                spec = _usual(examples.info)
                trained.append(train_network(spec, synthetic, epochs=epochs, seed=seed + i, report=tell))
        found["trained"] = np.mean([confidence(network, examples) for network in trained], axis=0)
    if release.teacher is not None:
        found["classifier"] = confidence(release.teacher.build(), examples)
    return found


def _usual(info: DatasetInfo) -> ModelSpec:
    return ModelSpec("convnet", {"width": _WIDTH}) if len(info.shape) == 3 else ModelSpec("mlp")


def blind(members: ImageDataset, others: ImageDataset, seed: int = 0) -> tuple[Scores, Scores]:
    """Scores of members and others by somebody who never saw the release: does the one set look unlike the other?

    Random trees on the pixels (shrunk to 12 x 12 where they are more), each example scored by trees that were grown on
    four fifths of the others.

    Source: Das, Zhang and Tramer 2024, "Blind Baselines Beat Membership Inference Attacks for Foundation Models".
    """
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    images = torch.cat([members.images, others.images])
    if images.dim() == 4 and max(images.shape[2:]) > _BLIND_SIDE:
        images = F.adaptive_avg_pool2d(images, _BLIND_SIDE)
    held = np.repeat([1, 0], [len(members), len(others)])
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    trees = ExtraTreesClassifier(_TREES, min_samples_leaf=5, random_state=seed)
    found = cross_val_predict(trees, images.flatten(1).numpy(), held, cv=folds, method="predict_proba")[:, 1]
    return found[held == 1], found[held == 0]
