"""Data sets in: one validated, normalised form for every source, and the loaders that produce it.

Normalisation (and the number of classes) are *public constants* (assumption A6 of the privacy theorem): they come from
the literature, from the caller, or are 0.5; they are never computed from the images that are to be protected.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import PerChannel, per_channel
from private_distdd.data.loaders.digits import load_digits_set
from private_distdd.data.loaders.folder import class_names, load_folder
from private_distdd.data.loaders.npz import load_npz
from private_distdd.data.loaders.torchvision_sets import TORCHVISION, load_torchvision
from private_distdd.errors import DataError


def load_dataset(
    name_or_path: str | Path,
    *,
    root: str | Path | None = None,
    download: bool = False,
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
    num_classes: int | None = None,
    classes: Sequence[str] | None = None,
) -> tuple[ImageDataset, ImageDataset]:
    """(train, test) of a known data set, a Keras-style file or an image folder.

    - `"digits"`: scikit-learn's 1797 grey 8 x 8 digits (embedded, no download); of each class every fourth example, in
      file order, is the test set.
    - `"mnist"`, `"fashionmnist"`, `"cifar10"`: torchvision's files below `root`.  (CIFAR-10's own format is a pickle;
      torchvision opens it only after its MD5 was found to be the published one.)
    - `"file.npz"`: arrays x_train, y_train, x_test, y_test as Keras writes them, without pickled objects.  x is uint8
      or floating point in [0, 1]; [n, H, W] is grey, [n, H, W, C] is taken where the last axis is 1 or 3 long,
      otherwise [n, C, H, W] where the second is.  y is integer, [n] or [n, 1].
    - `"folder/"`: folder/train/CLASS/IMAGE and folder/test/CLASS/IMAGE; all images are of one size and of mode L (grey)
      or RGB.  Classes are numbered in the order of `classes`, or with `num_classes` named 0, 1, ...; with neither, in
      sorted order of train's folder names.

    The class list is a public constant (assumption A6): for runs with privacy say it, with `num_classes` or `classes`.
    Else it is read off the data, and one example of a new class would change it for all to see.

    Args:
        name_or_path: one of these.
        root: where torchvision's files are; used for its three data sets only.
        download: let torchvision download what is missing.
        mean: public constant of pixels in [0, 1]; default: the literature's for torchvision's three, 0.5 for the rest.
        std: public constant, likewise.
        num_classes: of an `.npz` or a folder; default: 1 + the largest label in the file, or the number of folders.
        classes: of a folder: its classes' names in order, also of those that have no image or no folder.

    Raises:
        DataError: unknown name, missing or unreadable files, or contents that are not as above.
    """
    constants = {field: per_channel(value) for field, value in (("mean", mean), ("std", std)) if value is not None}
    name = str(name_or_path)
    path = Path(name_or_path)
    is_npz, is_folder = path.suffix == ".npz", name not in ("digits", *TORCHVISION) and path.is_dir()
    if num_classes is not None and not (is_npz or is_folder):
        raise DataError(f"num_classes = {num_classes!r} for {name!r}", "None", "Only files and folders leave it open.")
    if classes is not None and (not is_folder or num_classes is not None):
        raise DataError(
            f"classes = {classes!r} for {name!r}", "a folder, and no num_classes", "Only folders have class names."
        )
    if name == "digits":
        return load_digits_set(constants)
    if name in TORCHVISION:
        return load_torchvision(name, root, download, constants)
    if is_npz:
        return load_npz(path, num_classes, constants)
    if is_folder:
        return load_folder(path, class_names(classes, num_classes), constants)
    raise DataError(
        f"data set {name!r}",
        f"'digits', {', '.join(map(repr, TORCHVISION))}, a file ending in .npz, or an existing folder",
        "Check the name, or the path from the current folder.",
    )
