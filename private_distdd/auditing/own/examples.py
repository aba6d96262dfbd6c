"""The owner's examples: those that were contributed, and comparable ones that were held out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from private_distdd.auditing.bounds import FEWEST
from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.data.load import load_alike
from private_distdd.data.loaders.folder import load_part
from private_distdd.data.loaders.register import Wanted, source_of
from private_distdd.errors import DataError


@dataclass(frozen=True, eq=False)
class OwnExamples:
    """Examples with what their owner calls them.

    Args:
        dataset: the examples, with the public constants of a release.
        names: of each: a file below the folder, or a part and the example's place in it, from 0.
    """

    dataset: ImageDataset
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def only(self, chosen: NDArray[np.int64]) -> OwnExamples:
        """Those at these places, int64 [k]."""
        index = torch.from_numpy(chosen)
        own = self.dataset
        return OwnExamples(
            ImageDataset(own.images[index], own.labels[index], own.info), tuple(self.names[i] for i in chosen)
        )


def read_examples(source: str, info: DatasetInfo, **given: Any) -> dict[str, OwnExamples]:
    """The parts of a data set, "train" and "test", or "all" of a folder that is not parted: FOLDER/CLASS/IMAGE.

    Args:
        source: see `load_dataset`.
        info: of the release.
        given: other arguments of `load_dataset`.

    Raises:
        DataError: as `load_dataset`, or the examples are not of the release's shape and classes.
    """
    path = Path(source)
    if path.is_dir():
        kept = {name: value for name, value in given.items() if name not in ("root", "download")}
        wanted = Wanted(source, path, **kept)
        source_of(wanted)  # refuses options that are not a folder's
        _same_classes(source, len(wanted.class_names() or range(info.num_classes)), info)
        parts = [part for part in ("train", "test") if (path / part).is_dir()] or ["all"]
        found = {}
        for part in parts:
            below = path if part == "all" else path / part
            dataset, files = load_part(below, info, wanted)
            found[part] = OwnExamples(dataset, tuple(str(file.relative_to(path)) for file in files))
        return found
    loaded = dict(zip(("train", "test"), load_alike(source, info, **given), strict=True))
    own = loaded["train"].info
    if own.shape != info.shape:
        raise DataError(
            f"{own.form.many} of shape {list(own.shape)} in {source!r}",
            f"{list(info.shape)}, as the release has them",
            "Name the data that were contributed; --size and --channels as when they were.",
        )
    _same_classes(source, own.num_classes, info)
    if own.classes and info.classes and own.classes != info.classes:
        raise DataError(
            f"the classes {list(own.classes)} in {source!r}",
            f"{list(info.classes)}, as the release has them",
            "Name the data that were contributed; --classes as when they were.",
        )
    return {
        part: OwnExamples(
            ImageDataset(dataset.images, dataset.labels, info), tuple(f"{part} {i}" for i in range(len(dataset)))
        )
        for part, dataset in loaded.items()
    }


def _same_classes(source: str, count: int, info: DatasetInfo) -> None:
    if count != info.num_classes:
        raise DataError(
            f"{count} classes in {source!r}",
            f"{info.num_classes}, as the release has them",
            "Name the data that were contributed; --classes or --num-classes as when they were.",
        )


def joined(parts: Iterable[OwnExamples]) -> OwnExamples:
    """All of them as one; at least one part."""
    every = list(parts)
    info = every[0].dataset.info
    images = torch.cat([part.dataset.images for part in every])
    labels = torch.cat([part.dataset.labels for part in every])
    return OwnExamples(ImageDataset(images, labels, info), tuple(name for part in every for name in part.names))


@dataclass(frozen=True, eq=False)
class Compared:
    """Members and others: what an attack on a release is scored on.

    Args:
        members: examples that were contributed, at least 20.
        others: examples that were not, of the same kind, at least 20.
        pairs: places of a member and an other of one class, int64 [pairs, 2]: of each class as many of both as there
            are of the fewer, so that the mixture of classes tells nothing; at least 20.
        in_both: examples that were in both, and were left out.
    """

    members: OwnExamples
    others: OwnExamples
    pairs: NDArray[np.int64]
    in_both: int

    @classmethod
    def of(cls, members: OwnExamples, others: OwnExamples, seed: int = 0) -> Compared:
        """Leave out what is in both, and pair the others by class, at random.

        Raises:
            DataError: fewer than 20 pairs are left.
        """
        keys = [[row.tobytes() for row in own.dataset.images.numpy()] for own in (members, others)]
        shared = set(keys[0]) & set(keys[1])
        kept = [np.flatnonzero([key not in shared for key in own]) for own in keys]
        left = len(members) + len(others) - sum(map(len, kept))
        members, others = members.only(kept[0]), others.only(kept[1])
        rng, pairs = np.random.default_rng(seed), []
        for label in range(members.dataset.info.num_classes):
            of_class = [np.flatnonzero(own.dataset.labels.numpy() == label) for own in (members, others)]
            count = min(map(len, of_class))
            pairs.append(np.stack([rng.permutation(own)[:count] for own in of_class], axis=1))
        found = np.concatenate(pairs)
        if len(found) < FEWEST:
            raise DataError(
                f"{len(found)} pairs of a contributed and a held-out example of one class"
                + (f", after {left} that were in both were left out" if left else ""),
                f"{FEWEST} or more; some hundreds say more",
                "Name more held-out examples of the same classes: --held-out.",
            )
        return cls(members, others, found, left)


def own_and_held_out(data: str, held_out: str | None, info: DatasetInfo, seed: int = 0, **given: Any) -> Compared:
    """The owner's examples, read as a site reads them: of a parted data set "train" was contributed and "test" was not.

    Args:
        data: what was contributed, see `read_examples`; of a folder that is not parted, all of it.
        held_out: comparable examples that were not contributed, all parts of it; None: the test part of `data`.
        info: of the release.
        seed: of the pairs.
        given: other arguments of `load_dataset`, for both.

    Raises:
        DataError: as `read_examples`, there is nothing to compare with, or too little of it.
    """
    parts = read_examples(data, info, **given)
    if held_out is not None:
        others = joined(read_examples(held_out, info, **given).values())
    elif "test" in parts:
        others = parts["test"]
    else:
        raise DataError(
            f"{data!r} without held-out examples",
            "a data set with a test part, or --held-out",
            "Members can only be told from others: name comparable examples that were not contributed.",
        )
    members = next((parts[part] for part in ("train", "all") if part in parts), None)
    if members is None:
        raise DataError(f"{data!r} without a training part", "FOLDER/CLASS/IMAGE or FOLDER/train", "Check the path.")
    return Compared.of(members, others, seed)
