"""An .npz file of plain arrays, named as Keras or as MedMNIST names them."""

from __future__ import annotations

import zipfile
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from private_distdd.data.info import DatasetInfo
from private_distdd.data.loaders.register import Loaded, Source, Wanted, register_source
from private_distdd.data.normalised import from_pixels
from private_distdd.errors import DataError

_KERAS = ("x_train", "y_train", "x_test", "y_test")
_MEDMNIST = ("train_images", "train_labels", "test_images", "test_labels")  # and val_, which is not read


_LISTED = f"{', '.join(_KERAS)}, or {', '.join(_MEDMNIST)}"


def load_npz(wanted: Wanted) -> Loaded:
    """The four arrays of the file; a validation part is left where it is.

    Raises:
        DataError: it cannot be read, or holds something else.
    """
    path, num_classes = wanted.path, wanted.num_classes
    remedy = "Write it with numpy.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)."
    try:
        # Opened here: where the archive is damaged, numpy would leave it open.
        with path.open("rb") as file, _open_npz(file) as archive:
            keys = _MEDMNIST if _MEDMNIST[0] in archive and _KERAS[0] not in archive else _KERAS
            x_train, y_train, x_test, y_test = (archive[key] for key in keys)
    except FileNotFoundError as error:
        raise DataError(f"no file {str(path)!r}", "an existing .npz", "Check the path.") from error
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path.name}: {error}", f"an .npz of the plain arrays {_LISTED}", remedy) from error
    train = (wanted.fitted(_npz_images(x_train, keys[0])), _npz_labels(y_train, keys[1]))
    test = (wanted.fitted(_npz_images(x_test, keys[2])), _npz_labels(y_test, keys[3]))
    if wanted.classes is not None:
        num_classes = len(wanted.class_names() or ())
    if num_classes is None:
        num_classes = 1 + max((int(labels.max()) for _, labels in (train, test) if len(labels)), default=0)
    shape, names = tuple(train[0].shape[1:]), tuple(wanted.classes or ())
    info = DatasetInfo(wanted.called or path.stem, num_classes, shape, classes=names, **wanted.constants)
    return from_pixels(*train, info), from_pixels(*test, info)


def _open_npz(file: BinaryIO) -> np.lib.npyio.NpzFile:
    archive = np.load(file, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError("a single array")
    return archive


def _npz_images(array: np.ndarray[Any, Any], key: str) -> Tensor:
    if array.dtype == np.uint8:
        pixels = torch.from_numpy(array)
    elif np.issubdtype(array.dtype, np.floating):
        pixels = torch.from_numpy(array.astype(np.float32))
    else:
        raise DataError(f"{key} of type {array.dtype}", "uint8, or floating point in [0, 1]", "Convert the pixels.")
    channels = (1, 3)
    if array.ndim == 3:
        return pixels.unsqueeze(1)
    if array.ndim == 4 and array.shape[3] in channels:
        return pixels.permute(0, 3, 1, 2)
    if array.ndim == 4 and array.shape[1] in channels:
        return pixels
    raise DataError(
        f"{key} of shape {array.shape}", "[n, H, W], [n, H, W, C] or [n, C, H, W] with C = 1 or 3", "Reshape it."
    )


def _npz_labels(array: np.ndarray[Any, Any], key: str) -> Tensor:
    if array.ndim == 2 and array.shape[1] == 1:  # Keras writes CIFAR's labels so
        array = array[:, 0]
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"{key} is {array.dtype} {array.shape}", "integers [n] or [n, 1]", "Number the classes from 0.")
    return torch.from_numpy(array.astype(np.int64))


register_source(
    Source(
        "a file ending in .npz",
        load_npz,
        recognises=lambda path: path.suffix == ".npz",
        options=frozenset({"num_classes", "classes", "name", "size", "channels"}),
    )
)
