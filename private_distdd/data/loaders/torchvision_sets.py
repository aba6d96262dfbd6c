"""MNIST, Fashion-MNIST and CIFAR-10 from torchvision's files, with published constants."""

from __future__ import annotations

import torch

from private_distdd.data.info import DatasetInfo
from private_distdd.data.loaders.register import Loaded, Source, Wanted, register_source
from private_distdd.data.normalised import from_pixels
from private_distdd.errors import DataError

# Published per-channel constants, as DC uses them (Zhao, Mopuri and Bilen 2021, utils.get_dataset).
TORCHVISION: dict[str, tuple[str, tuple[float, ...], tuple[float, ...]]] = {
    "mnist": ("MNIST", (0.1307,), (0.3081,)),
    "fashionmnist": ("FashionMNIST", (0.2861,), (0.3530,)),
    "cifar10": ("CIFAR10", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
}


def load_torchvision(wanted: Wanted) -> Loaded:
    """The files below `wanted.root`.

    Raises:
        DataError: they are not there, or cannot be read.
    """
    from torchvision import datasets as torchvision_datasets

    name, root = wanted.name, wanted.root
    class_name, mean, std = TORCHVISION[name]
    if root is None:
        raise DataError(
            "root = None",
            f"the folder that holds {class_name}'s files",
            'Name it: root="FOLDER" (on the command line --root FOLDER); download=True (--download) fetches the files.',
        )
    parts = []
    for train in (True, False):
        try:
            source = getattr(torchvision_datasets, class_name)(str(root), train=train, download=wanted.download)
        except (RuntimeError, OSError, ValueError, AssertionError) as error:
            raise DataError(
                f"{class_name} below root = {str(root)!r}: {error}",
                "torchvision's files",
                "Name the folder that holds them, or pass download=True (on the command line --download).",
            ) from error
        # The raw arrays: sixty thousand PIL round trips would take a minute.
        pixels, labels = torch.as_tensor(source.data), torch.as_tensor(source.targets)
        pixels = pixels.unsqueeze(1) if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
        parts.append((pixels, labels))
    given = {"mean": mean, "std": std, **wanted.constants}
    info = DatasetInfo(name, 10, tuple(parts[0][0].shape[1:]), classes=(), **given)
    return from_pixels(*parts[0], info), from_pixels(*parts[1], info)


register_source(Source(", ".join(map(repr, TORCHVISION)), load_torchvision, published=tuple(TORCHVISION)))
